"""Several transforms as one, with neighbours that can share a pass merged into one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import isabstract
from itertools import groupby

from torch import Tensor

from .color import ColorTransform, recolor
from .draws import Draws
from .transform import Transform
from .warp import GeometricTransform, warp_all


@dataclass(frozen=True)
class Compose(Transform):
    """Transforms one after another; `compose` makes it.

    Neighbouring geometric transforms sample the images once, neighbouring linear transforms of colour are one
    matrix an image, and the images are checked once.

    Attributes:
        transforms: first to last.
    """

    transforms: tuple[Transform, ...]

    @property
    def idle(self) -> bool:
        """Whether all of them are."""
        return all(transform.idle for transform in self.transforms)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W), with all transforms."""
        for kind, group in groupby(self._addressed(draws), lambda part: _kind(part[0])):
            parts = list(group)
            if kind is GeometricTransform:
                images = warp_all(images, parts)  # type: ignore[arg-type]
            elif kind is ColorTransform:
                images = recolor(images, parts)  # type: ignore[arg-type]
            else:
                for transform, own in parts:
                    images = transform.apply(images, own)
        return images

    def _addressed(self, draws: Draws) -> list[tuple[Transform, Draws]]:
        """Each transform with its draws: a second one of a class, or of one made from it, has own names."""
        seen: Counter[type] = Counter()
        parts = []
        for transform in self.transforms:
            kind = _drawing_class(transform)
            parts.append((transform, draws.under(seen[kind]) if seen[kind] else draws))
            seen[kind] += 1
        return parts


def compose(transforms: Sequence[Transform]) -> Compose:
    """Several transforms as one, first to last; those that are composed themselves are taken apart.

    The numbers that a transform draws do not depend on which others are there.
    """
    parts: list[Transform] = []
    for transform in transforms:
        parts.extend(transform.transforms if isinstance(transform, Compose) else [transform])
    return Compose(tuple(parts))


def _drawing_class(transform: Transform) -> type:
    """The class that named its draws, which classes made from it inherit: the first that is not abstract."""
    return next(kind for kind in reversed(type(transform).__mro__) if _is_a_transform(kind))


def _is_a_transform(kind: type) -> bool:
    return issubclass(kind, Transform) and not isabstract(kind)


def _kind(transform: Transform) -> type[Transform]:
    for kind in (GeometricTransform, ColorTransform):
        if isinstance(transform, kind):
            return kind
    return Transform
