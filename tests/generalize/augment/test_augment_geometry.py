import math

import kornia.geometry.transform as kornia_geometry
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from ravine.generalize.augment.draws import Draws
from ravine.generalize.augment.elastic import Elastic, displacement, knots, smooth
from ravine.generalize.augment.geometry import (
    Perspective,
    Rotate,
    Shear,
    Stretch,
    Translate,
    perspective,
    rotation,
    shearing,
    stretching,
    translation,
)
from ravine.generalize.augment.lens import Lens, distortion
from ravine.generalize.augment.warp import Points, follow, grid, warp

HEIGHT, WIDTH = 17, 23


def images(count: int = 4, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def by_kornia(batch: torch.Tensor, forward: torch.Tensor) -> torch.Tensor:
    """Moved by matrices (N, 3, 3) from source to result, in pixels from the middle."""
    middle = torch.tensor([[1.0, 0.0, (WIDTH - 1) / 2], [0.0, 1.0, (HEIGHT - 1) / 2], [0.0, 0.0, 1.0]])
    pixels = middle @ forward @ torch.linalg.inv(middle)
    return kornia_geometry.warp_perspective(batch, pixels, (HEIGHT, WIDTH), align_corners=True)


def by_scipy(batch: torch.Tensor, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
    """Sampled at places (N, H, W), in pixels from the middle."""
    out = torch.empty_like(batch)
    for image, result, columns, rows in zip(batch, out, x, y, strict=True):
        places = np.stack((rows + (HEIGHT - 1) / 2, columns + (WIDTH - 1) / 2))
        for plane, found in zip(image, result, strict=True):
            taken = ndimage.map_coordinates(plane.numpy(), places, order=1, mode="grid-constant")
            found.copy_(torch.from_numpy(taken))
    return out


def matrices(*rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize("x", [-3, 0, 2])
@pytest.mark.parametrize("y", [-1, 0, 4])
def test_whole_pixels_move_right_and_down(x, y):
    batch = images(1)
    wanted = torch.zeros_like(batch)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            if 0 <= row - y < HEIGHT and 0 <= column - x < WIDTH:
                wanted[0, :, row, column] = batch[0, :, row - y, column - x]
    found = warp(batch, [translation(torch.tensor([float(x)]), torch.tensor([float(y)]))])
    assert (found - wanted).abs().max() < 1e-5


def test_parts_of_pixels_move_as_in_scipy():
    x, y = torch.tensor([0.25, -3.5, 8.1, 0.0]), torch.tensor([1.75, -0.5, 0.0, -9.9])
    found = warp(images(), [translation(x, y)])
    for image, result, right, down in zip(images(), found, x.tolist(), y.tolist(), strict=True):
        wanted = ndimage.shift(image.numpy(), (0, down, right), order=1, mode="grid-constant")
        assert np.abs(wanted - result.numpy()).max() < 1e-5


def test_rotation_is_kornias_and_counterclockwise_as_pillows():
    degrees = torch.tensor([0.0, 90.0, -30.0, 141.0])
    found = warp(images(), [rotation(degrees)])
    assert (found - kornia_geometry.rotate(images(), degrees)).abs().max() < 1e-5
    inside = warp(torch.ones_like(images()), [rotation(degrees)]) > 1 - 1e-6
    for image, result, full, angle in zip(images(), found, inside, degrees.tolist(), strict=True):
        for plane, seen, here in zip(image, result, full, strict=True):
            pillow = Image.fromarray(plane.numpy()).rotate(angle, Image.Resampling.BILINEAR)
            assert np.abs(np.asarray(pillow) - seen.numpy())[here.numpy()].max() < 1e-5


def test_a_quarter_turn_of_a_square_is_numpys():
    batch = images()[:, :, :, :HEIGHT].contiguous()
    found = warp(batch, [rotation(torch.full((4,), 90.0))])
    assert (found - torch.rot90(batch, 1, (2, 3))).abs().max() < 1e-5


def test_stretching_is_kornias():
    x, y = torch.tensor([1.0, 2.0, 0.7, 1.3]), torch.tensor([1.0, 1.5, 1.2, 0.4])
    found = warp(images(), [stretching(x, y)])
    assert (found - kornia_geometry.scale(images(), torch.stack((x, y), 1))).abs().max() < 1e-5


def test_shears_are_kornias():
    x, y = torch.tensor([0.0, 0.5, 0.0, -0.3]), torch.tensor([0.0, 0.0, 0.4, 0.8])
    # Pixels above the middle go right by x times their height, pixels right of it go down by y times.
    forward = torch.linalg.inv(
        matrices(*[[[1, a, 0], [-b, 1, 0], [0, 0, 1]] for a, b in zip(x.tolist(), y.tolist(), strict=True)])
    )
    assert (warp(images(), [shearing(x, y)]) - by_kornia(images(), forward)).abs().max() < 1e-5
    top = warp(images(), [shearing(torch.full((4,), 1 / 8), torch.zeros(4))])[:, :, 0]
    assert (top[..., 1:] - images()[:, :, 0, :-1]).abs().max() < 1e-5


CORNERS = torch.tensor([[-WIDTH, -HEIGHT], [WIDTH, -HEIGHT], [WIDTH, HEIGHT], [-WIDTH, HEIGHT]]) / 2


def test_perspective_is_kornias():
    inwards = torch.rand(4, 4, 2, generator=torch.Generator().manual_seed(1)) * 0.6
    goals = CORNERS * (1 - inwards)
    forward = kornia_geometry.get_perspective_transform(CORNERS.expand(4, 4, 2).contiguous(), goals)
    found = warp(images(), [perspective(goals, HEIGHT, WIDTH)])
    assert (found - by_kornia(images(), forward)).abs().max() < 1e-4


def test_perspective_takes_corners_to_corners():
    goals = CORNERS * torch.rand(50, 4, 2, generator=torch.Generator().manual_seed(1)).clamp(min=0.1)
    matrix = perspective(goals, HEIGHT, WIDTH)
    x, y, w = (matrix @ torch.cat((goals, torch.ones(50, 4, 1)), 2).mT).unbind(1)
    torch.testing.assert_close(torch.stack((x / w, y / w), 2), CORNERS.expand(50, 4, 2), atol=5e-3, rtol=0)


def test_lens_distortion_is_its_formula():
    k = torch.tensor([0.0, 0.2, -0.3, 0.33])
    x = np.arange(WIDTH)[None, None] - (WIDTH - 1) / 2
    y = np.arange(HEIGHT)[None, :, None] - (HEIGHT - 1) / 2
    factor = 1 + k.numpy()[:, None, None] * (x**2 + y**2) / ((WIDTH / 2) ** 2 + (HEIGHT / 2) ** 2)
    found = warp(images(), [distortion(k, HEIGHT, WIDTH)])
    assert (found - by_scipy(images(), x * factor, y * factor)).abs().max() < 1e-5


def test_a_barrel_shrinks_the_edge_and_a_pincushion_widens_it():
    white = torch.ones(2, 1, HEIGHT, WIDTH)
    barrel, pincushion = warp(white, [distortion(torch.tensor([0.3, -0.3]), HEIGHT, WIDTH)])
    assert barrel[0, 0, 0] == 0
    assert pincushion.min() > 1 - 1e-6


def test_a_field_moves_each_pixel_by_its_own():
    field = torch.randn(4, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 3
    x = np.arange(WIDTH) - (WIDTH - 1) / 2 + field[:, 0].numpy()
    y = np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2 + field[:, 1].numpy()
    assert (warp(images(), [displacement(field)]) - by_scipy(images(), x, y)).abs().max() < 1e-5


def test_the_field_is_noise_under_bells_one_knot_apart():
    sigma = 4.5
    noise = torch.randn(
        1, 1, knots(HEIGHT, sigma), knots(WIDTH, sigma), generator=torch.Generator().manual_seed(0)
    )
    found = smooth(noise, HEIGHT, WIDTH, sigma)
    for row, column in ((0, 0), (3, 20), (16, 22)):
        total, squares = 0.0, 0.0
        for i in range(noise.shape[2]):
            for j in range(noise.shape[3]):
                distance = math.hypot(row - (i - 3) * sigma, column - (j - 3) * sigma)
                bell = math.exp(-((distance / sigma) ** 2) / 2)
                total += bell * float(noise[0, 0, i, j])
                squares += bell**2
        assert found[0, 0, row, column] == pytest.approx(total / math.sqrt(squares), abs=1e-5)


def test_the_elastic_field_is_as_strong_as_asked_everywhere_and_as_smooth():
    transform = Elastic(amount=0.05, smoothness=0.2)
    points = transform.motion(Draws(0, 0, torch.arange(4000)), HEIGHT, WIDTH)(
        grid(HEIGHT, WIDTH, torch.device("cpu"))
    )
    moved = points.x - (torch.arange(WIDTH) - (WIDTH - 1) / 2)
    other = points.y - (torch.arange(HEIGHT) - (HEIGHT - 1) / 2).unsqueeze(1)
    wanted = 0.05 * HEIGHT
    for field in (moved, other):
        deviation = field.square().mean(0).sqrt()
        assert (deviation / wanted - 1).abs().max() < 0.06
    assert abs(float((moved * other).mean())) < 0.01 * wanted**2
    # Noise under a bell of s correlates over a distance d as exp(−d²/4s²).
    between = float((moved[:, 8, 5] * moved[:, 8, 9]).mean()) / wanted**2
    assert between == pytest.approx(math.exp(-(4**2) / (4 * (0.2 * HEIGHT) ** 2)), abs=0.05)


def motions() -> dict[str, object]:
    """One of each kind for 4 images, strong enough to tell their order."""
    shift = torch.tensor([1.2, -0.7, 0.4, -2.0])
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(4, 2, knots(HEIGHT, 4.0), knots(WIDTH, 4.0), generator=generator)
    return {
        "rotation": rotation(shift * 10),
        "elastic": displacement(smooth(noise, HEIGHT, WIDTH, 4.0) * 0.5),
        "translation": translation(shift, -shift),
        "stretching": stretching(1 + shift / 10, 1 - shift / 10),
        "lens": distortion(shift / 10, HEIGHT, WIDTH),
        "perspective": perspective(
            CORNERS * (1 - 0.1 * torch.rand(4, 4, 2, generator=generator)), HEIGHT, WIDTH
        ),
    }


@pytest.mark.parametrize(
    ("order", "limit"),
    [
        # An affine image of a ramp is a ramp, and a ramp is between pixels what it is at them.
        (["rotation", "translation", "stretching"], 2e-5),
        (["rotation", "stretching", "perspective"], 2e-5),
        (["translation", "rotation", "lens"], 2e-5),
        (["translation", "rotation", "elastic"], 2e-5),
        # A curved one is no ramp: what is lost by sampling it again is curvature / 8.
        (["perspective", "rotation", "lens"], 0.05),
        (["lens", "rotation", "perspective"], 0.05),
        (["elastic", "lens", "rotation"], 0.1),
        (["perspective", "elastic", "translation", "lens"], 0.1),
    ],
)
def test_a_chain_in_one_pass_is_one_after_another(order, limit):
    points = grid(HEIGHT, WIDTH, torch.device("cpu"))
    ramps = torch.stack((points.x.expand(1, HEIGHT, WIDTH)[0], points.y.expand(1, HEIGHT, WIDTH)[0]))
    batch = torch.cat((ramps, torch.ones(1, HEIGHT, WIDTH))).expand(4, 3, HEIGHT, WIDTH)
    chain = [motions()[name] for name in order]
    slowly = batch
    for motion in chain:
        slowly = warp(slowly, [motion])
    at_once = warp(batch, chain)
    # Where zeros came in the two differ by as much as was mixed in.
    whole = ((at_once[:, 2] > 1 - 1e-5) & (slowly[:, 2] > 1 - 1e-5)).unsqueeze(1)
    assert whole.float().mean() > 0.4
    assert ((at_once - slowly).abs() * whole).max() < limit
    backwards = warp(batch, chain[::-1])
    assert ((at_once - backwards).abs() * whole).max() > 3 * limit


def test_places_are_followed_from_the_last_motion_to_the_first():
    turn, shift = rotation(torch.tensor([90.0])), translation(torch.tensor([1.0]), torch.tensor([0.0]))
    start = Points(torch.tensor([[[3.0]]]), torch.tensor([[[0.0]]]))
    # A counterclockwise turn brings to the right what was below.
    shifted = follow(start, [turn, shift])
    assert (round(float(shifted.x), 5), round(float(shifted.y), 5)) == (0.0, 2.0)
    turned = follow(start, [shift, turn])
    assert (round(float(turned.x), 5), round(float(turned.y), 5)) == (-1.0, 3.0)


def test_neutral_motions_leave_images():
    zero, one = torch.zeros(4), torch.ones(4)
    neutral = [
        translation(zero, zero),
        rotation(zero),
        stretching(one, one),
        shearing(zero, zero),
        perspective(CORNERS.expand(4, 4, 2), HEIGHT, WIDTH),
        distortion(zero, HEIGHT, WIDTH),
        displacement(torch.zeros(4, 2, HEIGHT, WIDTH)),
    ]
    for motion in neutral:
        assert (warp(images(), [motion]) - images()).abs().max() < 5e-6
    assert (warp(images(), neutral) - images()).abs().max() < 5e-6


def test_a_horizon_inside_the_image_leaves_finite_values():
    horizon = matrices(
        *[[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.25, 0.0, slope]] for slope in (1.0, 0.0, 0.5, -1.0)]
    )
    found = warp(images(), [distortion(torch.full((4,), 0.3), HEIGHT, WIDTH), horizon])
    assert found.isfinite().all()


DRAWS = Draws(0, 0, torch.arange(4000))


def bounds(values: torch.Tensor) -> tuple[float, float]:
    return round(float(values.min()), 2), round(float(values.max()), 2)


def test_random_motions_fill_their_ranges():
    moved = Translate(0.2).motion(DRAWS, 20, 30)
    assert bounds(moved[:, 0, 2]) == (-6.0, 6.0)
    assert bounds(moved[:, 1, 2]) == (-4.0, 4.0)
    turned = Rotate(30.0).motion(DRAWS, 20, 30)
    assert bounds(torch.atan2(turned[:, 1, 0], turned[:, 0, 0]).rad2deg() / 10) == (-3.0, 3.0)
    stretched = Stretch(0.25).motion(DRAWS, 20, 30)
    assert bounds(stretched[:, 0, 0]) == bounds(stretched[:, 1, 1]) == (0.8, 1.25)
    assert abs(float((stretched[:, 0, 0] > 1).float().mean()) - 0.5) < 0.027
    leaning = Shear(45.0).motion(DRAWS, 20, 30)
    assert bounds(leaning[:, 0, 1]) == bounds(leaning[:, 1, 0]) == (-1.0, 1.0)
    corner = torch.tensor([-15.0, -10.0, 1.0])
    seen = torch.linalg.inv(Perspective(0.4).motion(DRAWS, 20, 30).double()) @ corner.double()
    assert bounds(1 - seen[:, 0] / seen[:, 2] / -15) == (0.0, 0.4)
    assert bounds(1 - seen[:, 1] / seen[:, 2] / -10) == (0.0, 0.4)
    end = Lens(0.3).motion(DRAWS, 20, 30)(Points(torch.tensor([[[15.0]]]), torch.tensor([[[10.0]]])))
    assert bounds(end.x / 15 - 1) == (-0.3, 0.3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Translate(1.2), r"Invalid amount: 1.2; it must be in \[0, 1\]"),
        (lambda: Rotate(181.0), r"Invalid degrees: 181.0; it must be in \[0, 180\]"),
        (lambda: Stretch(-0.1), "Invalid amount: -0.1; it must be finite and at least 0"),
        (lambda: Shear(90.0), r"in \[0, 80\]"),
        (lambda: Perspective(1.0), r"in \[0, 0.9\]"),
        (lambda: Lens(0.4), r"in \[0, 0.33\]"),
        (lambda: Elastic(float("nan")), "Invalid amount: nan"),
        (lambda: Elastic(smoothness=0.0), r"Invalid smoothness: 0.0; it must be in \[0.02, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
