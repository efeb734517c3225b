"""Hyperparameters of one value a member, class by class: each member moves as if it were alone."""

import pytest
import torch

import ravine.optim

# For each class what two members have; together each becomes a tensor of two values.
MEMBERS = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}, {"lr": 0.02, "momentum": 0.0, "dampening": 0.0}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3}, {"lr": 0.2, "lr_decay": 0.0, "eps": 1e-2}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.9, "momentum": 0.0}, {"lr": 0.01, "alpha": 0.99, "momentum": 0.5}),
    ("Adam", {"betas": (0.9, 0.99), "weight_decay": 0.1}, {"betas": (0.5, 0.9), "weight_decay": 0.0}),
    ("AdamW", {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.1}, {"lr": 0.2, "eps": 0.1, "weight_decay": 0.0}),
    ("NAdam", {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.1}, {"lr": 0.2, "eps": 0.1, "weight_decay": 0.0}),
    ("RAdam", {"lr": 0.1, "betas": (0.9, 0.99)}, {"lr": 0.2, "betas": (0.5, 0.6)}),
    ("Adamax", {"lr": 0.1, "betas": (0.9, 0.99)}, {"lr": 0.2, "betas": (0.5, 0.6)}),
    ("Adadelta", {"rho": 0.9, "eps": 1e-3}, {"rho": 0.5, "eps": 1e-2}),
    ("Adan", {"lr": 0.1, "betas": (0.9, 0.8, 0.7)}, {"lr": 0.2, "betas": (0.5, 0.6, 0.99)}),
    ("Lion", {"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.02, "weight_decay": 0.0}),
    ("ScheduleFreeAdamW", {"eps": 1e-3, "weight_decay": 0.1}, {"eps": 0.1, "weight_decay": 0.0}),
]


def joined(one, other):
    if isinstance(one, tuple):
        return tuple(map(joined, one, other))
    return torch.tensor([one, other], dtype=torch.float64)


@pytest.mark.parametrize("engine", ["cpu", "eager"])
@pytest.mark.parametrize(("name", "one", "other"), MEMBERS, ids=[name for name, *_ in MEMBERS])
def test_each_member_moves_as_if_alone(name, one, other, engine):
    make = getattr(ravine.optim, name)
    start = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = start.clone().requires_grad_()
    alone = [row.clone().requires_grad_() for row in start]
    optimizers = [make([together], engine=engine, **{key: joined(one[key], other[key]) for key in one})]
    optimizers += [
        make([row], engine=engine, **options) for row, options in zip(alone, (one, other), strict=True)
    ]
    for step in range(20):
        for parameter in (together, *alone):
            value = parameter.detach()
            parameter.grad = 2 * value + torch.cos(3 * value + step)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(together.detach(), torch.stack(alone).detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("option", ["betas", "momentum_decay"])
def test_nadams_momenta_are_one_for_all(option):
    """Refused before anything is changed: their product is one number a parameter."""
    two = torch.tensor([0.1, 0.2])
    weight = torch.ones(2, 3, requires_grad=True)
    optimizer = ravine.optim.NAdam([weight], **{option: (two, two) if option == "betas" else two})
    weight.grad = torch.ones(2, 3)
    with pytest.raises(ValueError, match=f"{option} cannot have one value a member: the product"):
        optimizer.step()
    assert torch.equal(weight, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"lr": torch.tensor([0.1, -0.1])}, r"Invalid learning rate: tensor\(\[ 0\.1"),
        ("SGD", {"momentum": torch.tensor([0.9, 0.0]), "nesterov": True}, "Nesterov momentum requires"),
        ("Adam", {"betas": (0.9, torch.tensor([0.9, 1.0]))}, "Invalid beta parameter at index 1"),
        ("Adadelta", {"rho": torch.tensor([0.9, 1.1])}, "Invalid rho value"),
    ],
)
def test_every_member_is_checked(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(ravine.optim, name)([torch.ones(2, requires_grad=True)], **options)
