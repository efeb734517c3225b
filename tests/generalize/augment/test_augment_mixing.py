import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ravine.errors import DataError
from ravine.generalize.augment.boxes import Boxes
from ravine.generalize.augment.draws import Draws
from ravine.generalize.augment.erase import Erase
from ravine.generalize.augment.mixing import CutMix, Mixup, blend, partners, paste, soft_targets


def draws(count: int) -> Draws:
    return Draws(0, 0, torch.arange(count))


def named(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images each of one value, its own: so it can be read off which share of which is where."""
    values = torch.arange(count, dtype=torch.float32) / (1 if dtype == torch.uint8 else count)
    return values.to(dtype).view(-1, 1, 1, 1).expand(count, 3, 8, 12).contiguous()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=40, unique=True))
def test_each_sample_is_the_partner_of_one_other_whatever_the_order(items):
    found = partners(Draws(0, 0, torch.tensor(items)))
    assert sorted(found.tolist()) == list(range(len(items)))
    assert all(partner != own for own, partner in enumerate(found.tolist()))
    by_item = {item: items[partner] for item, partner in zip(items, found.tolist(), strict=True)}
    turned = items[::-1]
    again = partners(Draws(0, 0, torch.tensor(turned)))
    assert by_item == {item: turned[partner] for item, partner in zip(turned, again.tolist(), strict=True)}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_soft_targets_that_are_not_finite_are_refused(bad):
    soft = torch.full((3, 4), 0.25)
    soft[1, 2] = bad
    for mix in (Mixup(4), CutMix(4)):
        with pytest.raises(DataError, match="1 of 3 soft targets have shares that are not finite"):
            mix(named(3), soft, draws(3))


@pytest.mark.parametrize(
    "made",
    [
        lambda bad: Mixup(bad),
        lambda bad: Mixup(3, bad),
        lambda bad: CutMix(3, p=bad),
        lambda bad: Erase(scale=bad),
        lambda bad: Erase(scale=(bad, 0.5)),
    ],
)
@pytest.mark.parametrize("bad", ["a", None, (1,)])
def test_settings_that_are_no_numbers_are_refused(made, bad):
    with pytest.raises(ValueError, match=r"Invalid .*; it must be"):
        made(bad)


def test_one_sample_is_its_own_partner():
    assert partners(draws(1)).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_targets_are_blended_exactly_as_images(dtype):
    weight = torch.tensor([0.0, 0.1, 0.5, 1.0])
    batch, partner = torch.rand(4, 3, 5, 5).to(dtype), torch.tensor([3, 0, 1, 2])
    mixed, soft = blend(batch, soft_targets(torch.tensor([0, 1, 2, 0]), 3), partner, weight)
    for place, share in enumerate(weight.to(dtype).double().tolist()):
        wanted = share * batch[place].double() + (1 - share) * batch[partner[place]].double()
        assert (mixed[place].double() - wanted).abs().max() <= torch.finfo(dtype).eps
    first, second = weight.to(dtype).float()[1], 1 - weight.to(dtype).float()[1]
    assert soft[1].tolist() == [second, first, 0]
    # Twice the same class is that class whole.
    assert soft[0].tolist() == [1, 0, 0]
    assert mixed.dtype == dtype


def test_mixup_draws_each_samples_weight_from_beta():
    mixed, soft = Mixup(classes=500, alpha=0.4)(named(500), torch.arange(500), draws(500))
    weight = soft.diagonal()
    assert torch.equal(weight, draws(500).beta("mixup", 0.4))
    # The image is the same blend of the two values as the target of the two classes.
    assert (soft.double() @ (torch.arange(500).double() / 500) - mixed[:, 0, 0, 0]).abs().max() < 1e-6
    assert (soft.sum(1) - 1).abs().max() < 1e-6
    assert weight.std() > 0.3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_target_has_the_weight_of_the_pixels_pasted(dtype):
    partner = torch.tensor([1, 2, 3, 0])
    boxes = Boxes(*torch.tensor([[0, 0, 8, 12], [2, 3, 3, 5], [7, 11, 1, 1], [4, 4, 0, 4]]).unbind(1))
    mixed, soft = paste(named(4, dtype), soft_targets(torch.arange(4), 4), partner, boxes)
    for place, pixels in enumerate([96, 15, 1, 0]):
        other = mixed[place] == named(4, dtype)[partner[place]]
        assert int(other.sum()) == 3 * pixels
        assert torch.equal(mixed[place][~other], named(4, dtype)[place][~other])
        wanted = torch.zeros(4)
        wanted[place], wanted[partner[place]] = 1 - torch.tensor(pixels / 96), pixels / 96
        assert torch.equal(soft[place], wanted)
    assert torch.equal(
        mixed[1] != named(4, dtype)[1], torch.nn.functional.pad(torch.ones(3, 3, 5), (3, 4, 2, 3)).bool()
    )
    assert mixed.dtype == dtype


def test_cutmix_targets_are_those_of_the_pixels_there():
    count = 400
    mixed, soft = CutMix(classes=count, alpha=1.0, p=0.75)(named(count), torch.arange(count), draws(count))
    own = (mixed[:, 0] == named(count)[:, 0]).double().mean((1, 2))
    assert (soft.diagonal() - own).abs().max() < 1e-6
    assert (soft.sum(1) - 1).abs().max() < 1e-6
    # A quarter has no rectangle, and of the others those with the smallest ones.
    assert 0.25 - 0.07 < float((own == 1).double().mean()) < 0.25 + 0.07 + 0.05
    rows = (mixed[:, 0] != named(count)[:, 0]).any(2)
    assert rows[:, 0].any() and rows[:, -1].any()


def test_cutmix_rectangles_are_as_large_as_drawn_but_for_the_edge():
    count = 2000
    soft = CutMix(classes=2, alpha=1.0, p=1.0)(
        torch.rand(count, 1, 40, 60),
        torch.nn.functional.one_hot(torch.zeros(count).long(), 2).float(),
        draws(count),
    )[1]
    assert torch.equal(soft, torch.tensor([1.0, 0.0]).expand(count, 2))
    own = CutMix(classes=count, alpha=1.0, p=1.0)(
        torch.rand(count, 1, 40, 60), torch.arange(count), draws(count)
    )[1]
    drawn = draws(count).beta("cutmix", 1.0)
    pasted = 1 - own.diagonal()
    assert (pasted <= drawn + 1e-6).all()
    middle = draws(count).uniform("cutmix.middle", 2)
    inside = ((middle - 0.5).abs() + drawn.sqrt().unsqueeze(1) / 2 < 0.5 - 1 / 40).all(1)
    assert inside.sum() > 100
    # Sides are cut to whole pixels.
    assert (drawn - pasted)[inside].max() < 1 / 40 + 1 / 60


@pytest.mark.parametrize("mixing", [Mixup(classes=3, alpha=0.0), CutMix(classes=3, alpha=0.0)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_nothing_is_mixed_at_strength_0(mixing, dtype):
    batch = named(4, dtype)
    mixed, soft = mixing(batch, torch.tensor([0, 2, 1, 1]), draws(4))
    assert torch.equal(mixed, batch)
    assert torch.equal(soft, torch.eye(3)[[0, 2, 1, 1]])


def test_cutmix_never_is_the_identity():
    mixed, soft = CutMix(classes=4, p=0.0)(named(4), torch.arange(4), draws(4))
    assert torch.equal(mixed, named(4))
    assert torch.equal(soft, torch.eye(4))


@pytest.mark.parametrize("mixing", [Mixup(classes=5, alpha=1.0), CutMix(classes=5, p=1.0)])
def test_order_in_the_batch_does_not_matter_and_values_stay_in_range(mixing):
    batch, targets = torch.rand(30, 3, 9, 9).round(decimals=1), torch.arange(30) % 5
    mixed, soft = mixing(batch, targets, draws(30))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    again, other = mixing(batch[order], targets[order], Draws(0, 0, order))
    assert torch.equal(again, mixed[order])
    assert torch.equal(other, soft[order])
    assert mixed.min() >= 0 and mixed.max() <= 1


@pytest.mark.parametrize("mixing", [Mixup(classes=5), CutMix(classes=5)])
def test_no_samples_are_no_samples(mixing):
    mixed, soft = mixing(torch.rand(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64), draws(0))
    assert mixed.shape == (0, 3, 4, 4)
    assert soft.shape == (0, 5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 5]), "from 0 to 5; class numbers are from 0 to 4"),
        (torch.tensor([-1, 4]), "from -1 to 4"),
        (torch.tensor([0.0, 1.0]), r"they must be class numbers \(N,\) or floating point \(N, 5\)"),
        (torch.rand(2, 4), r"\(2, 4\)"),
        (torch.tensor([1, 2, 3]), "2 images have 3 targets"),
    ],
)
def test_other_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        Mixup(classes=5)(torch.rand(2, 3, 4, 4), targets, draws(2))


def test_images_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="1 of 2 images have values that are not finite"):
        CutMix(classes=5)(
            torch.rand(2, 3, 4, 4).index_fill(0, torch.tensor([1]), float("nan")), torch.arange(2), draws(2)
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixup(classes=1), "Invalid classes: 1; it must be a whole number, at least 2"),
        (lambda: Mixup(classes=3, alpha=-1.0), "Invalid alpha: -1.0"),
        (lambda: CutMix(classes=3, p=2.0), "Invalid p: 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
