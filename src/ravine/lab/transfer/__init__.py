"""Fine-tuning by measured advice: what a pretrained network is worth on some data, and how to train it."""

from .finetune import finetune

__all__ = ["finetune"]
