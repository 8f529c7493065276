#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loops over pairs in the machine code of kernels, for launch/kernel_report.sh.

    cuobjdump -sass OBJECT... | c++filt | launch/kernel_loops.py

For each innermost loop that holds matrix products: its instructions, those a vote of the warp may skip,
the products (m16n8k16), and instructions for 32 pairs (a lane's worth of one pair for each of its
lanes). Then the tile loops of the instances that documents speak of, everything around the innermost
loop included, beside what they may take. Last the loops of kernels whose warps see one pair at a time, by dot
products whose parts lanes exchange (Combiner's): the instructions that no pair goes without, times 32. Exits 1 when lanes may part within an innermost loop, which
then also costs a reconvergence, or when a tile loop takes more than it may.
"""

import re
import sys
from dataclasses import dataclass, field

PRODUCT = re.compile(r"[HIQ]G?MMA")
PARTING = {"BSSY", "BSYNC", "BRX", "CALL", "WARPSYNC"}


@dataclass
class Mark:
    """What an instance may take for 32 pairs. `trips`: of the loops from the innermost one outwards in one
    turn of the tile loop, which has `pairs` pairs for each lane."""

    kernel: str
    trips: tuple
    pairs: int
    most: float
    group: str


# Of k = 128. A warp's tile: forward 32 rows x 64 columns; backward 16 x 64, in steps of 32 or 16; sampler 32 x
# 128 in two halves, with seven steps in k beside the one that starts the sums.
MARKS = (
    Mark("attend_tiles_kernel<bf16, 64, false>", (), 64, 12.5, "forward"),
    Mark("attend_tiles_backward_kernel<Config<bf16, 0, 64, 128, false> >", (2,), 32, 75, "backward"),
    Mark("attend_tiles_backward_kernel<Config<bf16, 1, 64, 128, false> >", (4,), 32, 75, "backward"),
    Mark("sample_fast_tiles_kernel<false>", (7, 1, 2), 128, 27, "tile sampler"),
)


# Exchanges between lanes (SHFL) of one pair: five a dot product of the warp.
EXCHANGES = {
    "combine_kernel": 5,
    "combine_by_query_kernel": 10,
    "combine_by_token_kernel": 10,
    "combine_by_region_kernel": 10,
    "summarize_kernel": 5,
    "summarize_by_region_kernel": 15,
    "summarize_by_token_kernel": 15,
}


@dataclass
class Instruction:
    address: int
    text: str

    @property
    def opcode(self):
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split()[0]

    @property
    def name(self):
        return self.opcode.split(".")[0]

    @property
    def target(self):
        match = re.search(r"\bBRA\S*\s.*?(0x[0-9a-f]+)", self.text)
        return int(match.group(1), 16) if match else None

    @property
    def guard(self):
        match = re.match(r"@!?(U?P\d)", self.text)
        return match.group(1) if match else None

    def writes(self, register):
        operands = self.text.split(self.opcode, 1)[1].split(",")
        return register in (operands[0].strip(), operands[1].strip() if register.startswith("P") and len(operands) > 1 else "")


@dataclass
class Loop:
    code: list
    inner: list = field(default_factory=list)

    @property
    def first(self):
        return self.code[0].address

    @property
    def last(self):
        return self.code[-1].address

    def holds(self, other):
        return self is not other and self.first <= other.first and other.last <= self.last

    def products(self):
        return sum(bool(PRODUCT.match(i.name)) for i in self.code)

    def parts(self):
        return sum(i.name in PARTING for i in self.code)

    def skipped(self):
        """Instructions between a branch that the whole warp takes after a vote and its target."""
        return sum(
            sum(i.address < x.address < i.target for x in self.code)
            for at, i in enumerate(self.code)
            if i.target and i.address < i.target <= self.last and self.is_voted(at)
        )

    def is_voted(self, at):
        wanted = self.code[at].guard
        for i in reversed(self.code[:at]):
            if wanted is None:
                return False
            if i.writes(wanted):
                if i.name in ("VOTE", "VOTEU"):
                    return True
                register = re.search(r"\bU?R\d+\b", i.text)
                wanted = register.group(0) if i.name in ("ISETP", "UISETP") and register else None
        return False


def kernels(lines):
    name, code = None, []
    for line in lines:
        if match := re.search(r"Function : (.*)", line):
            if name:
                yield name, code
            name, code = match.group(1).strip(), []
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", line):
            code.append(Instruction(int(match.group(1), 16), match.group(2).strip()))
    if name:
        yield name, code


def short(name):
    name = re.sub(r"\((anonymous namespace|[\w:]*)\)(::)?(?=\w)", "", name)
    name = re.sub(r"stipple::|kernels::|cuda::|tiles_backward::|math::", "", name).replace("__nv_bfloat16", "bf16")
    name = re.sub(r"_GLOBAL__N__\w+::", "", name)
    return re.sub(r"^void ", "", name).split("(")[0]


def loops_with_products(code):
    """From the innermost ones outwards."""
    ends = {i.address: i.target for i in code if i.target is not None and i.target < i.address}
    loops = [Loop([i for i in code if first <= i.address <= last]) for last, first in ends.items()]
    loops = sorted((x for x in loops if x.products()), key=lambda x: len(x.code))
    for loop in loops:
        loop.inner = [x for x in loops if loop.holds(x)]
    return loops


def shortest(code, begin, end):
    """The fewest instructions from index begin, which counts, to end, which does not, going forward."""
    at = {x.address: i for i, x in enumerate(code)}
    cost = {begin: 0}
    for i in range(begin, end):
        if i not in cost:
            continue
        x = code[i]
        ahead = [at[x.target]] if x.target in at and at[x.target] > i else []
        falls = x.target is None or x.guard is not None or not ahead
        for to in ahead + ([i + 1] if falls else []):
            cost[to] = min(cost.get(to, len(code)), cost[i] + 1)
    return cost.get(end)


def pair_loops(code, exchanges):
    """Of each innermost loop that exchanges: its instructions, pairs of a turn, and instructions of a turn by the shortest way
    through all exchanges."""
    ends = {i.address: i.target for i in code if i.target is not None and i.target < i.address}
    loops = sorted((Loop([i for i in code if first <= i.address <= last]) for last, first in ends.items()), key=lambda x: len(x.code))
    for loop in loops:
        stops = [i for i, x in enumerate(loop.code) if x.name == "SHFL"]
        if not stops or any(loop.holds(x) and any(i.name == "SHFL" for i in x.code) for x in loops):
            continue
        ways = [shortest(loop.code, a, b) for a, b in zip([0, *stops], [*stops, len(loop.code) - 1])]
        if None not in ways:
            yield len(loop.code), len(stops) / exchanges, sum(ways) + 1


def print_pair_loops(found):
    print(f"\n{'loop over pairs, one at a time':<72}{'instructions':>13}{'pairs':>8}{'for 32 pairs':>13}")
    for name, (instructions, pairs, least) in found:
        print(f"{name:<72}{instructions:>13}{pairs:>8g}{32 * least / pairs:>13.0f}")


def shape(name):
    """Products for 32 pairs, of k = 128 where the kernel does not know it; None: not of pairs."""
    per_pair = None
    if match := re.match(r"attend_tiles_kernel<(\w+), (\d+)", name):
        storage, per_pair = match.group(1), 2 * int(match.group(2))
    elif match := re.match(r"attend_tiles_backward_kernel<Config<(\w+), (\d), (\d+), (\d+)", name):
        storage, per_pair = match.group(1), (3 + int(match.group(2))) * int(match.group(3)) + int(match.group(4))
    elif name.startswith("sample_fast_tiles_kernel"):
        storage, per_pair = "bf16", 128
    return per_pair and per_pair * (6 if storage == "float" else 1) * 32 / (16 * 8 * 16)


def tile_cost(loops, innermost, mark):
    """Of the tile loop around the innermost one, for 32 pairs."""
    around = [x for x in loops if x.holds(innermost)][: len(mark.trips)]
    cost, counted = len(innermost.code) - innermost.skipped(), len(innermost.code)
    for trips, loop in zip(mark.trips, around):
        others = [x for x in loop.inner if not x.inner and x is not innermost and not x.holds(innermost)]
        rest = len(loop.code) - counted - sum(len(x.code) for x in others)
        cost, counted = cost * trips + rest, len(loop.code) - sum(len(x.code) for x in others)
    return cost / mark.pairs


def main():
    failures, totals, one_by_one = [], {}, []
    print(f"{'innermost loop with products':<72}{'instructions':>13}{'by vote':>8}{'products':>9}{'for 32 pairs':>13}{'parting':>8}")
    for name, code in kernels(sys.stdin):
        name = short(name)
        if exchanges := EXCHANGES.get(name.split("<")[0]):
            one_by_one += [(name, loop) for loop in pair_loops(code, exchanges)]
        loops = loops_with_products(code)
        innermost = [x for x in loops if not x.inner]
        for loop in innermost:
            per_32 = shape(name)
            pairs = f"{(len(loop.code) - loop.skipped()) * per_32 / loop.products():.1f}" if per_32 else "-"
            print(f"{name:<72}{len(loop.code):>13}{loop.skipped():>8}{loop.products():>9}{pairs:>13}{loop.parts():>8}")
            if loop.parts():
                failures.append(f"{name}: lanes may part within its loop of products")
        for mark in MARKS:
            if mark.kernel == name and innermost:
                totals.setdefault((mark.group, mark.most), []).append((name, tile_cost(loops, innermost[-1], mark)))
    print()
    for (group, most), found in totals.items():
        sum_of = sum(cost for _, cost in found)
        print(f"{group}, whole tile loop, d = 64, k = 128, for 32 pairs: {sum_of:.1f}, at most {most}"
              + (f" ({' + '.join(f'{cost:.1f}' for _, cost in found)})" if len(found) > 1 else ""))
        if sum_of > most:
            failures.append(f"{group}: {sum_of:.1f} instructions for 32 pairs, at most {most}")
    if one_by_one:
        print_pair_loops(one_by_one)
    for failure in failures:
        print("FAILED " + failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
