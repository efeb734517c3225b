"""The sheet of augmented images: what the first epochs made of some images, beside the images themselves."""

from .figures.pictures import class_name, png
from .page import caption_block, escape
from .run import Run

# Pixels a side under which a picture is shown in whole pixels.
_SMALL = 80
_CAPTION = (
    "Each row is an image of the training part and what the first epochs made of it. Look whether a person "
    "would still name each of them rightly: a change that hides the answer teaches the wrong thing."
)
_MIXED = (
    " Here images are mixed with others of this sheet, in training with others of their batch: in the same "
    "shares, and with other partners."
)
_MIXES = {"mixup", "cutmix"}


def augmented(run: Run) -> str:
    """The section of a run that augments images; nothing for others."""
    images = run.augmented.get("augmented.images")
    if images is None or not len(images):
        return ""
    names = [str(name) for name in run.recipe.get("augment", [])]
    caption = caption_block(escape(", ".join(names)), _CAPTION + (_MIXED if _MIXES & {*names} else ""))
    heads = "".join(f"<th>epoch {epoch}</th>" for epoch in range(1, images.shape[1]))
    small = ' class="small"' if max(images.shape[3:]) < _SMALL else ""
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td><img{small} src="{png(picture)}" alt="{escape(_told(run, row, column))}"></td>'
            for column, picture in enumerate(pictures)
        )
        + "</tr>"
        for row, pictures in enumerate(images)
    )
    return (
        "<section><h2>What augmentation makes of the images</h2><div class='grid'>"
        f"<figure class='card text wide'>{caption}<div class='scroll'>"
        f"<table class='sheet'><thead><tr><th>as it is</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        "</div></figure></div></section>"
    )


def _told(run: Run, row: int, column: int) -> str:
    targets = run.augmented.get("augmented.targets")
    name = "an image" if targets is None else class_name(run, targets[row])
    return f"{name}, {f'epoch {column}' if column else 'as it is'}"
