"""What every transform of images keeps to, alone and composed."""

import pickle
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from ravine import registry
from ravine.errors import DataError
from ravine.generalize.augment.color import ColorJitter, PCAColor
from ravine.generalize.augment.compose import Compose, compose
from ravine.generalize.augment.crop import PaddedCrop, RandomResizedCrop
from ravine.generalize.augment.draws import Draws
from ravine.generalize.augment.elastic import Elastic
from ravine.generalize.augment.erase import Erase
from ravine.generalize.augment.flip import Flip
from ravine.generalize.augment.geometry import Perspective, Rotate, Shear, Stretch, Translate
from ravine.generalize.augment.lens import Lens
from ravine.generalize.augment.policies import RandAugment, TrivialAugment
from ravine.generalize.augment.transform import Transform

COVARIANCE = ((0.06, 0.05, 0.04), (0.05, 0.06, 0.05), (0.04, 0.05, 0.07))
GEOMETRY = [
    Translate(0.3),
    Rotate(90.0),
    Stretch(0.5),
    Shear(30.0),
    Perspective(0.9),
    Lens(0.33),
    Elastic(0.1),
]
EXACT = [Flip(), PaddedCrop(3), PaddedCrop(3, "reflect"), Erase()]
COLOR = [ColorJitter(0.8, 0.8, 0.8, 0.5), PCAColor(COVARIANCE, sigma=2.0)]
POLICIES = [RandAugment(n=3, magnitude=30), TrivialAugment()]
EVERYTHING = compose([Flip(), PaddedCrop(3), *GEOMETRY, *COLOR, Erase(), *POLICIES])
TRANSFORMS = [*EXACT, RandomResizedCrop(6), RandomResizedCrop(14), *GEOMETRY, *COLOR, *POLICIES, EVERYTHING]
IDLE = [
    Flip(p=0.0),
    PaddedCrop(0),
    Erase(p=0.0),
    Translate(0.0),
    Rotate(0.0),
    Stretch(0.0),
    Shear(0.0),
    Perspective(0.0),
    Lens(0.0),
    Elastic(0.0),
    ColorJitter(0.0, 0.0, 0.0, 0.0),
    PCAColor(COVARIANCE, sigma=0.0),
    RandAugment(n=0),
]
COUNT = 37


def name(transform: Transform) -> str:
    settings = "-".join(str(getattr(transform, field.name)) for field in fields(transform))
    return (
        type(transform).__name__
        if isinstance(transform, Compose)
        else f"{type(transform).__name__}-{settings}"
    )


every = pytest.mark.parametrize("transform", TRANSFORMS, ids=name)


def batch(count: int = COUNT, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Bytes, or as floats: with many zeros and ones, where rounding leaves the range first."""
    levels = torch.randint(-64, 320, (count, 3, 11, 9), generator=torch.Generator().manual_seed(0)).clamp(
        0, 255
    )
    return levels.byte() if dtype == torch.uint8 else (levels / 255).to(dtype)


def draws(count: int = COUNT, epoch: int = 0) -> Draws:
    return Draws(7, epoch, torch.arange(count) * 3)


@every
def test_values_stay_in_range_and_finite_over_many_draws(transform):
    for epoch in range(5):
        out = transform(batch(), draws(epoch=epoch))
        assert out.min() >= 0 and out.max() <= 1


@every
def test_something_happens_and_the_images_given_stay(transform):
    given = batch()
    out = transform(given, draws())
    assert torch.equal(given, batch())
    assert out.shape[:2] == given.shape[:2]
    assert out.shape != given.shape or not torch.equal(out, given)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_picture_is_the_same_in_whatever_batch(transform, dtype):
    given = batch(dtype=dtype)
    for epoch, size in enumerate((1, 1, 2, 5, 31)):
        own = draws(epoch=epoch)
        whole = transform(given, own)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(size):
            assert torch.equal(transform(given[chosen], own.of(chosen)), whole[chosen])


@every
def test_each_epoch_and_each_seed_has_its_own_pictures(transform):
    first = transform(batch(), draws())
    assert torch.equal(first, transform(batch(), draws()))
    assert not torch.equal(first, transform(batch(), draws(epoch=1)))
    assert not torch.equal(first, transform(batch(), Draws(8, 0, draws().items)))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_memory_formats_are_kept_and_give_the_same_pictures(transform, dtype):
    given = batch(dtype=dtype)
    out = transform(given.contiguous(memory_format=torch.channels_last), draws())
    assert out.is_contiguous(memory_format=torch.channels_last)
    wanted = transform(given, draws())
    assert wanted.is_contiguous()
    assert (out.double() - wanted.double()).abs().max() < 1e-5


@every
def test_bytes_become_shares_of_255_but_where_pixels_only_move(transform):
    out = transform(batch(dtype=torch.uint8), draws())
    shares = transform(batch(dtype=torch.uint8).float() / 255, draws())
    if transform in EXACT:
        assert out.dtype == torch.uint8
        assert torch.equal(out.float() / 255, shares)
    else:
        assert out.dtype == torch.float32
        assert torch.equal(out, shares)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_kept_and_give_about_the_same(transform, dtype):
    out = transform(batch(dtype=dtype), draws())
    assert out.dtype == dtype
    assert out.min() >= 0 and out.max() <= 1
    if not any(policy in (transform, *getattr(transform, "transforms", ())) for policy in POLICIES):
        # Levels and thresholds of the policies' operations jump.
        assert (out.float() - transform(batch(dtype=dtype).float(), draws())).abs().max() < 0.02


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_no_images_are_no_images(transform, dtype):
    out = transform(batch(0, dtype), draws(0))
    wanted = transform(batch(1, dtype), draws(1))
    assert out.shape == (0, *wanted.shape[1:])
    assert out.dtype == wanted.dtype


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_images_that_are_not_finite_are_refused(transform, value):
    given = batch()
    given[3, 0, 2, 2] = given[5, 1, 0, 0] = value
    with pytest.raises(DataError, match=f"2 of {COUNT} images have values that are not finite"):
        transform(given, draws())


@every
def test_images_of_any_strides_are_taken(transform):
    given, own = batch()[:, :, :9], draws()
    wanted = transform(given.contiguous(), own)
    turned = given.transpose(2, 3).contiguous().transpose(2, 3)
    every_other = torch.stack((given, given), dim=2).flatten(1, 2)[:, ::2]
    for odd in (given, turned, every_other):
        assert not odd.is_contiguous()
        assert (transform(odd, own) - wanted).abs().max() < 1e-5


@every
def test_gradients_pass_through(transform):
    given = batch().mul(0.8).add(0.1).requires_grad_()
    transform(given, draws()).sum().backward()
    assert given.grad is not None and given.grad.isfinite().all()


def test_a_mean_of_pixels_is_held_to_its_own_images_range():
    # Nine tenths are no sum of halves: their means round up as often as down.
    given = torch.full((COUNT, 1, 40, 40), 0.9)
    given[::2] = 1.0
    for transform in (RandomResizedCrop(17), RandomResizedCrop(64), compose([Rotate(20.0), Lens(0.3)])):
        out = transform(given, draws())
        assert (out <= given[:, :, :1, :1]).all()


def test_large_but_finite_images_are_taken():
    given = torch.full((4, 1, 4, 4), torch.finfo(torch.float32).max)
    assert torch.equal(Flip(1.0)(given, draws(4)), given)
    half = torch.full((400, 1, 40, 40), 60000.0, dtype=torch.float16)
    assert torch.equal(Flip(1.0)(half, draws(400)), half)


@pytest.mark.parametrize(
    ("given", "own", "message"),
    [
        (torch.zeros(3, 4, 4), draws(3), r"Invalid images of shape \(3, 4, 4\); they must be \(N, C, H, W\)"),
        (torch.zeros(3, 1, 0, 4), draws(3), "Invalid images of shape"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.int64), draws(3), "must be floating point or torch.uint8"),
        (torch.zeros(3, 1, 4, 4), draws(4), "Invalid draws of 4 items for 3 images"),
        (
            torch.zeros(3, 1, 4, 4),
            Draws(0, 0, draws(3).items.to("meta")),
            "Invalid draws on meta for images on cpu",
        ),
    ],
)
def test_what_is_no_batch_of_images_is_refused(given, own, message):
    with pytest.raises(ValueError, match=message):
        Flip()(given, own)


@pytest.mark.parametrize("transform", [*IDLE, compose(IDLE), compose([])], ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_0_is_the_identity_bit_for_bit(transform, dtype):
    assert transform.idle
    assert torch.equal(transform(batch(dtype=dtype), draws()), batch(dtype=dtype))


@every
def test_one_pixel_is_enough(transform):
    if transform == PaddedCrop(3, "reflect"):
        pytest.skip("there is nothing to reflect")
    out = transform(
        torch.rand(COUNT, 1, 1, 1) if not has_three(transform) else torch.rand(COUNT, 3, 1, 1), draws()
    )
    assert out.isfinite().all()


def has_three(transform: Transform) -> bool:
    return PCAColor in (type(part) for part in (transform, *getattr(transform, "transforms", ())))


@every
def test_transforms_are_frozen_equal_by_settings_and_travel(transform):
    with pytest.raises(FrozenInstanceError):
        setattr(transform, fields(transform)[0].name, None) if fields(transform) else setattr(
            transform, "p", 1
        )
    assert pickle.loads(pickle.dumps(transform)) == transform


def test_every_transform_that_needs_no_numbers_of_the_data_is_registered_once():
    kinds = {type(transform) for transform in TRANSFORMS} - {Compose, PCAColor}
    named = [entry.part for entry in registry.entries("augmentation")]
    assert kinds <= set(named) and len(named) == len(set(named))


def test_composed_exact_transforms_are_one_after_another():
    steps = [Flip(), PaddedCrop(2), ColorJitter(), Erase()]
    wanted = batch()
    for step in steps:
        wanted = step(wanted, draws())
    assert torch.equal(compose(steps)(batch(), draws()), wanted)


def test_composed_colors_are_cut_off_once():
    gentle = batch() * 0.2 + 0.4
    steps = [
        ColorJitter(0.2, 0.2, 0.2, 0.1),
        PCAColor(COVARIANCE, sigma=0.1),
        ColorJitter(0.1, 0.1, 0.1, 0.0),
    ]
    wanted = steps[2](steps[1](steps[0](gentle, draws()), draws()), draws().under(1))
    assert (compose(steps)(gentle, draws()) - wanted).abs().max() < 1e-6
    # Brighter by 3, then darker: nothing was lost between.
    bright, dark = ColorJitter(3.0, 0.0, 0.0, 0.0), PCAColor(COVARIANCE, sigma=0.0)
    assert torch.equal(compose([bright, dark])(gentle, draws()), bright(gentle, draws()))


def test_what_a_transform_draws_does_not_depend_on_its_neighbours():
    alone = Flip()(batch(), draws())
    among = compose([Erase(p=0.0), Flip(), PaddedCrop(0)])(batch(), draws())
    assert torch.equal(alone, among)


def test_a_second_transform_of_a_kind_has_its_own_draws():
    once = Rotate(90.0).motion(draws(), 11, 9)
    both = compose([Rotate(90.0), Flip(), Rotate(90.0)])
    own = [part.motion(given, 11, 9) for part, given in both._addressed(draws()) if isinstance(part, Rotate)]
    assert torch.equal(own[0], once)
    assert not torch.equal(own[1], once)


def test_composed_transforms_are_taken_apart():
    inner = compose([Rotate(), Translate()])
    assert compose([Flip(), inner, Shear()]).transforms == (Flip(), Rotate(), Translate(), Shear())


def test_a_composed_geometry_samples_once(monkeypatch):
    calls = []
    sample = torch.nn.functional.grid_sample
    monkeypatch.setattr(
        torch.nn.functional, "grid_sample", lambda *given, **named: calls.append(1) or sample(*given, **named)
    )
    compose([Translate(), Rotate(), Stretch(), Shear(), Perspective(), Lens()])(batch(), draws())
    assert len(calls) == 1
