"""A program printed as LLVM IR: a kernel that walks a table of rows (`table.Table`).

A row names stretches of memory, one a value of an element, and the scalars that hold there. The kernel
works on vectors of 16 elements, and on the last few one by one with the same instructions, so an
element's result does not depend on where it lies. Each value is read once and written once.
"""

import textwrap
from collections import Counter
from typing import NamedTuple

import torch

from .trace import Instruction, Program

WIDTH = 16
"""Elements in a vector: one AVX-512 register of float32; on other processors LLVM makes it several."""

REDUCE = f"llvm.vector.reduce.fadd.v{WIDTH}f64"
OPERATORS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
CONDITIONS = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
INTRINSICS = {"sqrt": "llvm.sqrt", "abs": "llvm.fabs", "maximum": "llvm.maximum", "fused": "llvm.fmuladd"}
OPERANDS = {"maximum": 2, "fused": 3}
STORED = {torch.float64: "double", torch.float32: "float", torch.float16: "half", torch.bfloat16: "i16"}
SHORT = {"float": "f32", "double": "f64"}
QUIET_NAN = 0x7FC0  # in bfloat16


class Layout(NamedTuple):
    """What a kernel must know of memory.

    Attributes:
        dtypes: of x, dx, the state and the average.
        rounding: how a bfloat16 x is stored: "nearest", "stochastic", or "compensated": one more column
            holds the 16 bits that x has lost.
    """

    dtypes: tuple[torch.dtype, ...]
    rounding: str = "nearest"

    @property
    def wide(self) -> torch.dtype:
        """What is computed in."""
        return torch.float64 if torch.float64 in self.dtypes else torch.float32

    @property
    def columns(self) -> int:
        """How many stretches of memory a row names."""
        return len(self.dtypes) + (self.rounding == "compensated")


class Body:
    """What the loop does, printed for vectors or for single elements."""

    def __init__(self, layout: Layout, width: int) -> None:
        self.layout = layout
        self.width = width
        self.wide = STORED[layout.wide]
        self.mark = "v" if width > 1 else "s"
        self.lines: list[str] = []

    def print(self, program: Program) -> str:
        """Load, compute, store."""
        values: list[str] = []
        products = fusible(program)
        for instruction in program.instructions:
            values.append(self._fused(instruction, values, products) or self._value(instruction, values))
        for column, output in zip((0, *range(2, program.inputs)), program.outputs, strict=True):
            self._store(column, values[output])
        return "\n".join(self.lines)

    def _value(self, instruction: Instruction, values: list[str]) -> str:
        name, arguments = instruction
        if name == "input":
            return self.load(arguments[0])
        if name == "slot":
            return f"%slot{arguments[0]}{self.mark}"
        given = [values[argument] for argument in arguments]
        kind = self._type(self.wide)
        if name in OPERATORS:
            return self._set(f"{OPERATORS[name]} {kind} {given[0]}, {given[1]}")
        if name == "neg":
            return self._set(f"fneg {kind} {given[0]}")
        if name in CONDITIONS:
            return self._set(f"fcmp {CONDITIONS[name]} {kind} {given[0]}, {given[1]}")
        if name == "choose":
            return self._choose(kind, *given)
        return self._call(name, *given)

    def _fused(self, instruction: Instruction, values: list[str], products: "Products") -> str:
        """A sum with a product as one operation; empty where there is none.

        LLVM, left to choose, takes the one product or the other of a·b + c·d as it likes, in vectors not
        as in single elements: here it is the second.
        """
        name, arguments = instruction
        if name not in ("add", "sub"):
            return ""
        left, right = arguments
        kind = self._type(self.wide)
        if right in products:
            a, b = (values[factor] for factor in products[right])
            c = values[left]
            a = self._set(f"fneg {kind} {a}") if name == "sub" else a
        elif left in products:
            a, b = (values[factor] for factor in products[left])
            c = values[right]
            c = self._set(f"fneg {kind} {c}") if name == "sub" else c
        else:
            return ""
        return self._call("fused", a, b, c)

    def _call(self, name: str, *given: str) -> str:
        kind = self._type(self.wide)
        arguments = ", ".join(f"{kind} {value}" for value in given)
        return self._set(f"call {kind} @{intrinsic(name, self.wide, self.width)}({arguments})")

    def _type(self, element: str) -> str:
        return f"<{self.width} x {element}>" if self.width > 1 else element

    def _set(self, expression: str) -> str:
        name = f"%{self.mark}{len(self.lines)}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def _choose(self, kind: str, condition: str, a: str, b: str) -> str:
        return self._set(f"select {self._type('i1')} {condition}, {kind} {a}, {kind} {b}")

    def _int(self, operator: str, left: str, right: str | int) -> str:
        """An operation on 32-bit integers."""
        if isinstance(right, int):
            right = self._whole(right)
        return self._set(f"{operator} {self._type('i32')} {left}, {right}")

    def _cast(self, operator: str, value: str, before: str, after: str) -> str:
        return self._set(f"{operator} {self._type(before)} {value} to {self._type(after)}")

    def _place(self, column: int, kept: str) -> str:
        return self._set(f"getelementptr {kept}, ptr %base{column}, i64 %at{self.mark}")

    def load(self, column: int) -> str:
        """The elements of a column, widened."""
        dtype = self.layout.dtypes[column]
        value = self._read(column, dtype)
        if dtype is not torch.bfloat16:
            kept = STORED[dtype]
            return value if kept == self.wide else self._cast("fpext", value, kept, self.wide)
        bits = self._int("shl", self._cast("zext", value, "i16", "i32"), 16)
        if column == 0 and self.layout.rounding == "compensated":
            rest = self._cast("sext", self._read(len(self.layout.dtypes), torch.bfloat16), "i16", "i32")
            bits = self._int("add", bits, self._possible(bits, rest))
        value = self._cast("bitcast", bits, "i32", "float")
        return value if self.wide == "float" else self._cast("fpext", value, "float", "double")

    def _possible(self, bits: str, rest: str) -> str:
        """A remainder; none is negative where x is zero (see `rounding.widen`)."""
        zero = f"icmp eq {self._type('i32')} {self._int('shl', bits, 1)}, {self._whole(0)}"
        below = f"icmp slt {self._type('i32')} {rest}, {self._whole(0)}"
        wrong = self._set(f"and {self._type('i1')} {self._set(zero)}, {self._set(below)}")
        return self._choose(self._type("i32"), wrong, self._whole(0), rest)

    def _whole(self, number: int) -> str:
        return f"splat (i32 {number})" if self.width > 1 else str(number)

    def _read(self, column: int, dtype: torch.dtype) -> str:
        place = self._place(column, STORED[dtype])
        return self._set(f"load {self._type(STORED[dtype])}, ptr {place}, align {dtype.itemsize}")

    def _store(self, column: int, value: str) -> None:
        """Narrow the elements and put them into a column."""
        dtype = self.layout.dtypes[column]
        kept = STORED[dtype]
        if dtype is torch.bfloat16:
            value = self._bfloat16(value, self.layout.rounding if column == 0 else "nearest")
        elif kept != self.wide:
            if kept == "half" and self.wide == "double":
                # In two steps, as torch: at once LLVM would call a function that is not there.
                value = self._cast("fptrunc", value, "double", "float")
            value = self._cast("fptrunc", value, "float" if kept == "half" else self.wide, kept)
        self._write(column, value, dtype)

    def _write(self, column: int, value: str, dtype: torch.dtype) -> None:
        place = self._place(column, STORED[dtype])
        self.lines.append(f"  store {self._type(STORED[dtype])} {value}, ptr {place}, align {dtype.itemsize}")

    def _bfloat16(self, value: str, rounding: str) -> str:
        """The upper half of a float32: what rounding asks for is added to the lower half first."""
        if self.wide == "double":
            value = self._cast("fptrunc", value, "double", "float")
        bits = self._cast("bitcast", value, "float", "i32")
        if rounding == "stochastic":
            sum_ = self._int("add", bits, self._int("and", self._random(), 0xFFFF))
        elif rounding == "compensated":
            sum_ = self._int("add", bits, 0x8000)
        else:
            odd = self._int("and", self._int("lshr", bits, 16), 1)
            sum_ = self._int("add", self._int("add", bits, odd), 0x7FFF)
        high = self._int("lshr", sum_, 16)
        bad = self._set(f"fcmp uno {self._type('float')} {value}, {value}")
        high = self._choose(self._type("i32"), bad, self._whole(QUIET_NAN), high)
        if rounding == "compensated":
            rest = self._int("sub", bits, self._int("shl", high, 16))
            self._write(len(self.layout.dtypes), self._cast("trunc", rest, "i32", "i16"), torch.bfloat16)
        return self._cast("trunc", high, "i32", "i16")

    def _random(self) -> str:
        """32 bits for each element, hashed from its number (see `rounding.hashed`)."""
        if self.width > 1:
            bits = self._int("add", "%counts", f"<{', '.join(f'i32 {lane}' for lane in range(self.width))}>")
        else:
            bits = "%count"
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            bits = self._int("xor", bits, self._int("lshr", bits, shift))
            bits = self._int("mul", bits, factor) if factor > 1 else bits
        return bits


Products = dict[int, tuple[int, ...]]
"""The numbers of multiplications, with the numbers of their factors."""


def fusible(program: Program) -> Products:
    """The products that one sum alone needs: worked out with it, they cost nothing."""
    uses = Counter(program.outputs)
    for name, arguments in program.instructions:
        if name not in ("input", "slot"):
            uses.update(arguments)
    return {
        number: arguments
        for number, (name, arguments) in enumerate(program.instructions)
        if name == "mul" and uses[number] == 1
    }


def intrinsic(name: str, element: str, width: int) -> str:
    """The name of an LLVM intrinsic for such values."""
    return f"{INTRINSICS[name]}.{f'v{width}' if width > 1 else ''}{SHORT[element]}"


def kernel(program: Program, layout: Layout) -> str:
    """The module's text; its function is `run(work)`.

    `work` points to the table, the number of rows, the sets of scalars, and how many rows some thread has
    begun: each thread takes the next until none is left.
    """
    wide = STORED[layout.wide]
    vector = f"<{WIDTH} x {wide}>"
    columns = layout.columns
    bases = [_field(number, f"base{number}", pointer=True) for number in range(columns)]
    fields = [_field(columns, "length"), _field(columns + 1, "set"), _field(columns + 2, "key")]
    slots = [_slot(number, wide, vector) for number in range(program.slots)]
    return "\n".join(
        [
            *_declarations(wide),
            _walk(columns),
            *bases,
            *fields,
            f"  %first = mul i64 %set, {program.slots}",
            f"  %mine = getelementptr {wide}, ptr %given, i64 %first",
            *slots,
            "  %key32 = trunc i64 %key to i32",
            f"  %whole = and i64 %length, -{WIDTH}",
            "  br label %vectors",
            "vectors:\n  %atv = phi i64 [0, %begin], [%nextv, %vector]",
            "  %morev = icmp slt i64 %atv, %whole",
            "  br i1 %morev, label %vector, label %singles",
            "vector:",
            "  %atv32 = trunc i64 %atv to i32\n  %countv = add i32 %key32, %atv32",
            f"  %counted = insertelement <{WIDTH} x i32> poison, i32 %countv, i32 0",
            f"  %counts = shufflevector <{WIDTH} x i32> %counted, <{WIDTH} x i32> poison, "
            f"<{WIDTH} x i32> zeroinitializer",
            Body(layout, WIDTH).print(program),
            f"  %nextv = add nuw nsw i64 %atv, {WIDTH}\n  br label %vectors",
            "singles:\n  %ats = phi i64 [%whole, %vectors], [%nexts, %single]",
            "  %mores = icmp slt i64 %ats, %length",
            "  br i1 %mores, label %single, label %next",
            "single:",
            "  %ats32 = trunc i64 %ats to i32\n  %count = add i32 %key32, %ats32",
            Body(layout, 1).print(program),
            "  %nexts = add nuw nsw i64 %ats, 1\n  br label %singles",
            "}",
        ]
    )


def squares(layout: Layout) -> str:
    """The module's text for the sum of the squared gradients of each row; it goes to `given[row]`, float64.

    Rows are taken from the last to the first: the update, which comes next and takes them from the first,
    finds in the cache what was read last.
    """
    dtype = layout.dtypes[1]
    many, one = f"<{WIDTH} x double>", "double"
    return "\n".join(
        [
            f"declare double @{REDUCE}(double, {many})",
            _walk(layout.columns, backwards=True),
            _field(1, "base1", pointer=True),
            _field(layout.columns, "length"),
            f"  %whole = and i64 %length, -{WIDTH}",
            "  br label %vectors",
            "vectors:\n  %atv = phi i64 [0, %begin], [%nextv, %vector]",
            f"  %sumv = phi {many} [zeroinitializer, %begin], [%addedv, %vector]",
            "  %morev = icmp slt i64 %atv, %whole",
            "  br i1 %morev, label %vector, label %joined",
            "vector:",
            *_squared(dtype, WIDTH, many),
            f"  %nextv = add nuw nsw i64 %atv, {WIDTH}\n  br label %vectors",
            f"joined:\n  %all = call reassoc double @{REDUCE}(double 0.0, {many} %sumv)",
            "  br label %singles",
            "singles:\n  %ats = phi i64 [%whole, %joined], [%nexts, %single]",
            "  %sums = phi double [%all, %joined], [%addeds, %single]",
            "  %mores = icmp slt i64 %ats, %length",
            "  br i1 %mores, label %single, label %told",
            "single:",
            *_squared(dtype, 1, one),
            "  %nexts = add nuw nsw i64 %ats, 1\n  br label %singles",
            "told:\n  %answer = getelementptr double, ptr %given, i64 %row",
            "  store double %sums, ptr %answer\n  br label %next",
            "}",
        ]
    )


def _squared(dtype: torch.dtype, width: int, kind: str) -> list[str]:
    """Add the squares of the gradient's next elements to a running sum."""
    body = Body(Layout((torch.float64, dtype)), width)
    value = body.load(1)
    mark = body.mark
    return [
        *body.lines,
        f"  %square{mark} = fmul contract {kind} {value}, {value}",
        f"  %added{mark} = fadd contract {kind} %sum{mark}, %square{mark}",
    ]


def _walk(columns: int, *, backwards: bool = False) -> str:
    """The function's head: take row after row until none is left; then comes what is done with a row."""
    row = (
        "  %last = sub i64 %rows, 1\n  %row = sub i64 %last, %turn"
        if backwards
        else "  %row = add i64 %turn, 0"
    )
    return "\n".join(
        [
            "define void @run(ptr %work) {",
            "start:",
            _field(0, "table", "work", pointer=True),
            _field(1, "rows", "work"),
            _field(2, "given", "work", pointer=True),
            "  %taken = getelementptr i64, ptr %work, i64 3\n  br label %next",
            "next:\n  %turn = atomicrmw add ptr %taken, i64 1 monotonic",
            "  %left = icmp ult i64 %turn, %rows",
            "  br i1 %left, label %begin, label %end",
            "end:\n  ret void",
            f"begin:\n{row}",
            f"  %place = mul i64 %row, {columns + 3}",
            "  %fields = getelementptr i64, ptr %table, i64 %place",
        ]
    )


def _declarations(wide: str) -> list[str]:
    lines = []
    for width in (1, WIDTH):
        kind = f"<{width} x {wide}>" if width > 1 else wide
        for name in INTRINSICS:
            arguments = ", ".join([kind] * OPERANDS.get(name, 1))
            lines.append(f"declare {kind} @{intrinsic(name, wide, width)}({arguments})")
    return lines


def _field(number: int, name: str, record: str = "fields", *, pointer: bool = False) -> str:
    """Read one of the numbers of a record: of the row, or of the work."""
    lines = [f"  %{name}.at = getelementptr i64, ptr %{record}, i64 {number}"]
    if pointer:
        lines += [
            f"  %{name}.number = load i64, ptr %{name}.at",
            f"  %{name} = inttoptr i64 %{name}.number to ptr",
        ]
    else:
        lines += [f"  %{name} = load i64, ptr %{name}.at"]
    return "\n".join(lines)


def _slot(number: int, wide: str, vector: str) -> str:
    """Read one of the scalars, alone and in each element of a vector."""
    name = f"%slot{number}"
    zeros = f"<{WIDTH} x i32> zeroinitializer"
    return textwrap.dedent(
        f"""\
          {name}at = getelementptr {wide}, ptr %mine, i64 {number}
          {name}s = load {wide}, ptr {name}at
          {name}one = insertelement {vector} poison, {wide} {name}s, i32 0
          {name}v = shufflevector {vector} {name}one, {vector} poison, {zeros}"""
    )
