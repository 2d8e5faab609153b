"""Colours that stay apart for colour-blind eyes, and readable on light and dark ground."""

# Okabe and Ito, "Color universal design", 2008; its black and yellow, which vanish on one of the grounds, are replaced.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BASELINES = ("#8a8f98", "#a58b6f")

# For classes: ten hues of differing lightness, then the same again.
CLASSES = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2"),
    *("#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#b5bd5b"),
)
UNKNOWN = "#9aa0a6"


def class_colour(label: int) -> str:
    """The colour of a class; grey where the label is unknown."""
    return UNKNOWN if label < 0 else CLASSES[label % len(CLASSES)]
