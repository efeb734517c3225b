"""A program printed as Triton source: a kernel for GPUs, one program instance a row.

The rows are short, for a GPU needs many at once, and name their parameter: its addresses, its key and its
scalars are in tables of their own, so that a step sends a few numbers a parameter and none a row. Whole
blocks at addresses that 16 divides are read 16 bytes a thread at a time, which Triton does only where it
knows both; other blocks are read element by element.

What is computed is what `llvm.py` prints, with the same products fused into sums: the kernels are to be run
with `enable_fp_fusion=False`, so that Triton fuses no others. Conversions to bfloat16 are written out in
integers, as there: Triton's own rounds on a GPU and cuts off in its interpreter.
"""

import re
import textwrap
from collections.abc import Sequence

import torch

from .llvm import Layout, Products, fusible
from .trace import Instruction, Program

CHUNK = 4096
"""Elements of a row at most: few enough that a million parameters keep every multiprocessor busy."""

BLOCK = 1024
"""Elements that a program instance works on at a time: 8 a thread."""

STORED = {
    torch.float64: "tl.float64",
    torch.float32: "tl.float32",
    torch.float16: "tl.float16",
    torch.bfloat16: "tl.uint16",  # its bits
}
OPERATIONS = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "{} * -1.0",  # -x is 0 - x to Triton, which loses the sign of zero
    "sqrt": "tl.sqrt({})",
    "abs": "tl.abs({})",
    "maximum": "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "choose": "tl.where({}, {}, {})",
}
EXACT = {"div": "tl.div_rn({}, {})", "sqrt": "tl.sqrt_rn({})"}
"""For float32, where `/` and `tl.sqrt` are quick and not rounded correctly; for float64 they are."""


class Body:
    """What is done with a block of a row: a `whole` one, or as much of it as is in the row."""

    def __init__(self, layout: Layout, *, whole: bool) -> None:
        self.layout = layout
        self.whole = whole
        self.operations = OPERATIONS | (EXACT if layout.wide is torch.float32 else {})
        self.lines: list[str] = []

    def print(self, program: Program) -> list[str]:
        """Load, compute, store."""
        values: list[str] = []
        products = fusible(program)
        for instruction in program.instructions:
            values.append(self._fused(instruction, values, products) or self._value(instruction, values))
        for column, output in zip((0, *range(2, program.inputs)), program.outputs, strict=True):
            self._store(column, values[output])
        return self.lines

    def _value(self, instruction: Instruction, values: Sequence[str]) -> str:
        name, arguments = instruction
        if name == "input":
            return self.load(arguments[0], STORED[self.layout.wide])
        if name == "slot":
            return f"slot{arguments[0]}"
        return self._set(self.operations[name].format(*(values[argument] for argument in arguments)))

    def _fused(self, instruction: Instruction, values: Sequence[str], products: Products) -> str:
        """A sum with a product as one operation; empty where there is none."""
        name, arguments = instruction
        if name not in ("add", "sub"):
            return ""
        left, right = arguments
        sign = " * -1.0" if name == "sub" else ""
        if right in products:
            a, b = (values[factor] for factor in products[right])
            return self._set(f"tl.fma({a}{sign}, {b}, {values[left]})")
        if left in products:
            a, b = (values[factor] for factor in products[left])
            return self._set(f"tl.fma({a}, {b}, {values[right]}{sign})")
        return ""

    def _set(self, expression: str) -> str:
        name = f"{'w' if self.whole else 'p'}{len(self.lines)}"  # a name has one type in both branches
        self.lines.append(f"{name} = {expression}")
        return name

    def _place(self, column: int, stored: str) -> str:
        place = f"place{column}.to(tl.pointer_type({stored}))"
        return f"tl.multiple_of({place}, 16) + offsets" if self.whole else f"{place} + offsets"

    def _read(self, column: int, stored: str) -> str:
        mask = "" if self.whole else ", mask=inside, other=0"
        return self._set(f"tl.load({self._place(column, stored)}{mask})")

    def _write(self, column: int, value: str, stored: str) -> None:
        mask = "" if self.whole else ", mask=inside"
        self.lines.append(f"tl.store({self._place(column, stored)}, {value}.to({stored}){mask})")

    def load(self, column: int, wide: str) -> str:
        """The elements of a column, widened."""
        dtype = self.layout.dtypes[column]
        value = self._read(column, STORED[dtype])
        if dtype is torch.bfloat16:
            bits = self._set(f"{value}.to(tl.uint32) << 16")
            if column == 0 and self.layout.rounding == "compensated":
                rest = self._set(f"{self._read(len(self.layout.dtypes), 'tl.int16')}.to(tl.int32)")
                # None is negative where x is zero (see `rounding.widen`).
                rest = self._set(f"tl.where((({bits} << 1) == 0) & ({rest} < 0), 0, {rest})")
                bits = self._set(f"{bits} + {rest}.to(tl.uint32)")
            value = self._set(f"{bits}.to(tl.float32, bitcast=True)")
        return self._set(f"{value}.to({wide})")

    def _store(self, column: int, value: str) -> None:
        """Narrow the elements and put them into a column."""
        dtype = self.layout.dtypes[column]
        if dtype is torch.bfloat16:
            value = self._bfloat16(value, self.layout.rounding if column == 0 else "nearest")
        elif dtype is torch.float16:
            value = f"{value}.to(tl.float32)"  # float64 in two steps, as torch and the CPU's kernels do
        self._write(column, value, STORED[dtype])

    def _bfloat16(self, value: str, rounding: str) -> str:
        """The upper half of a float32: what rounding asks for is added to the lower half first."""
        value = self._set(f"{value}.to(tl.float32)")
        bits = self._set(f"{value}.to(tl.uint32, bitcast=True)")
        if rounding == "stochastic":
            added = f"({self._random()} & 0xFFFF)"
        elif rounding == "compensated":
            added = "0x8000"
        else:
            added = f"(({bits} >> 16) & 1) + 0x7FFF"
        high = self._set(f"({bits} + {added}) >> 16")
        high = self._set(f"tl.where({value} != {value}, 0x7FC0, {high})")  # rounding could end a NaN
        if rounding == "compensated":
            self._write(len(self.layout.dtypes), f"({bits} - ({high} << 16))", "tl.int16")
        return high

    def _random(self) -> str:
        """32 bits for each element, hashed from its number (see `rounding.hashed`)."""
        bits = self._set("count + offsets.to(tl.uint32)")
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            bits = self._set(f"({bits} ^ ({bits} >> {shift})) * {factor}")
        return bits


def kernel(program: Program, layout: Layout) -> str:
    """The text of `ravine_<rule>(rows, addresses, scalars, keys)`: one step of every row.

    The function takes int64 `rows` (rows, 4): parameter, start, length, set of scalars; int64 `addresses`
    (parameters, columns); `scalars` (sets, slots); and int64 `keys` (parameters,), where the counts of each
    parameter's elements begin.
    """
    slots = [f"slot{number} = tl.load(given + {number})" for number in range(program.slots)]
    counted = layout.rounding == "stochastic"
    return _text(
        f"def ravine_{re.sub('[^A-Za-z0-9_]', '_', program.name)}(rows, addresses, scalars, keys):",
        [
            *_head(layout, range(layout.columns)),
            f"given = scalars + tl.load(row + 3) * {program.slots}",
            *slots,
            *(["count = (tl.load(keys + owner) + start).to(tl.uint32)"] if counted else []),
            *_walk(Body(layout, whole=True).print(program), Body(layout, whole=False).print(program)),
        ],
    )


def squares(layout: Layout) -> str:
    """The text of `ravine_squares(rows, addresses, sums)`: each row's sum of squared gradients, float64."""
    bodies = []
    for whole in (True, False):
        body = Body(layout, whole=whole)
        value = body.load(1, "tl.float64")
        bodies.append([*body.lines, f"total += {value} * {value}"])
    return _text(
        "def ravine_squares(rows, addresses, sums):",
        [
            *_head(layout, [1]),
            f"total = tl.full(({BLOCK},), 0.0, tl.float64)",
            *_walk(*bodies),
            "tl.store(sums + tl.program_id(0), add_up(total, 0))",
        ],
    )


def _text(head: str, lines: Sequence[str]) -> str:
    return "\n".join(["@triton.jit", head, *(textwrap.indent(line, "    ") for line in lines), ""])


def _head(layout: Layout, columns: Sequence[int]) -> list[str]:
    """Read the row, and where the values of some columns begin."""
    sizes = [*(dtype.itemsize for dtype in layout.dtypes), 2]
    places = [
        f"place{column} = tl.load(addresses + owner * {layout.columns} + {column}) + start * {sizes[column]}"
        for column in columns
    ]
    return [
        "row = rows + tl.program_id(0).to(tl.int64) * 4",
        "owner = tl.load(row)",
        "start = tl.load(row + 1)",
        "length = tl.load(row + 2).to(tl.int32)",
        *places,
        f"aligned = (({' | '.join(f'place{column}' for column in columns)}) & 15) == 0",
        f"lanes = tl.arange(0, {BLOCK})",
    ]


def _walk(whole: Sequence[str], part: Sequence[str]) -> list[str]:
    """Go through the row block by block.

    The bounds are constants and the blocks beyond the row are left out by a condition, because Triton's
    interpreter takes no other bounds with NumPy 2.4.
    """
    return [
        f"for at in range(0, {CHUNK}, {BLOCK}):",
        "    offsets = at + lanes",
        f"    if aligned & (at + {BLOCK} <= length):",
        *(f"        {line}" for line in whole),
        "    elif at < length:",
        "        inside = offsets < length",
        *(f"        {line}" for line in part),
    ]
