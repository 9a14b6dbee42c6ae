"""From a GPU session's rows to RESULTS.md and plots: python bench/report.py results/NAME.jsonl.

Adds a section to the top of bench/RESULTS.md and writes PNGs beside the JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
MARK = "<!-- newest first -->\n"

# Milliseconds aimed at on one H200: operation, T, H, V.
GOALS = {
    ("logprob", 16_384, 4096, 32_256): 6.0,
    ("logprob", 16_384, 2048, 32_256): 3.1,
    ("logprob", 16_384, 1536, 32_256): 2.4,
    ("logprob", 16_384, 4096, 151_936): 28,
    ("logprob", 16_384, 2048, 151_936): 14.5,
    ("logprob", 16_384, 1536, 151_936): 11,
    ("ppo_head", 16_384, 4096, 32_256): 17.8,
    ("ppo_head", 16_384, 2048, 32_256): 9.3,
    ("ppo_head", 16_384, 1536, 32_256): 7.2,
    ("ppo_head", 16_384, 4096, 151_936): 83,
    ("ppo_head", 16_384, 2048, 151_936): 42,
    ("ppo_head", 16_384, 1536, 151_936): 32,
    ("ppo_head", 4096, 4096, 131_072): 18,
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file: what each benchmark recorded."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def number(row: dict[str, Any], name: str, digits: int) -> str:
    value = row.get(name)
    return "" if value is None else f"{value:.{digits}f}"


def head_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| operation | T | H | V | active | provider | hot ms | cold ms | goal ms | TFLOP/s "
        "| of cuBLAS | extra MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = ("operation", "V", "H", "T")
    for row in sorted(
        rows, key=lambda r: (*(r[n] for n in order), -r.get("active", 1), r["hot_ms"])
    ):
        goal = GOALS.get((row["operation"], row["T"], row["H"], row["V"]), "")
        lines.append(
            f"| {row['operation']} | {row['T']} | {row['H']} | {row['V']} | "
            f"{row.get('active', 1):.0%} | {row['provider']} | {number(row, 'hot_ms', 2)} | "
            f"{number(row, 'cold_ms', 2)} | {goal if row.get('active', 1) == 1 else ''} | "
            f"{number(row, 'tflops', 0)} | {number(row, 'of_cublas', 2)} | "
            f"{number(row, 'extra_mib', 0)} |"
        )
    return lines


def token_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| operation | tokens | provider | device us | call us | GB/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r["operation"], r["T"], r.get("rows", ""), r["hot_ms"])):
        call = "" if "call_ms" not in row else f"{row['call_ms'] * 1e3:.1f}"
        lines.append(
            f"| {row['operation']} | {row.get('rows', row['T'])} | {row['provider']} | "
            f"{row['hot_ms'] * 1e3:.1f} | {call} | {number(row, 'gb_per_s', 0)} |"
        )
    return lines


def plot(rows: list[dict[str, Any]], operation: str, path: Path) -> bool:
    """Bars of all providers at each shape of a head operation; False where there is nothing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = [r for r in rows if r["operation"] == operation and r.get("active", 1) == 1]
    if not chosen:
        return False
    shapes = sorted({(r["T"], r["H"], r["V"]) for r in chosen})
    providers = sorted({r["provider"] for r in chosen}, key=lambda p: (p != "ours", p))
    figure, axes = pyplot.subplots(figsize=(2 + 1.6 * len(shapes), 5))
    width = 0.8 / len(providers)
    for place, provider in enumerate(providers):
        found = {(r["T"], r["H"], r["V"]): r["hot_ms"] for r in chosen if r["provider"] == provider}
        at = [i + place * width for i, shape in enumerate(shapes) if shape in found]
        axes.bar(at, [found[s] for s in shapes if s in found], width, label=provider)
    axes.set_xticks(
        [i + 0.4 - width / 2 for i in range(len(shapes))],
        [f"T {t}\nH {h}\nV {v}" for t, h, v in shapes],
    )
    axes.set_yscale("log")
    axes.set_ylabel("ms, median, hot L2")
    axes.set_title(f"{operation} on {chosen[0]['gpu']}")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def main() -> None:
    """Write the section and the plots of one results file."""
    path = Path(sys.argv[1])
    rows = rows_of(path)
    devices = sorted(
        {f"{r['gpu']}, torch {r.get('torch', '-')}, triton {r.get('triton', '-')}" for r in rows}
    )
    section = [f"## {path.stem}", "", *(f"- {d}" for d in devices), ""]
    heads = [r for r in rows if "H" in r]
    if heads:
        section += [*head_table(heads), ""]
    tokens = [r for r in rows if "H" not in r]
    if tokens:
        section += [*token_table(tokens), ""]
    for operation in ("logprob", "ppo_head"):
        image = path.with_name(f"{path.stem}_{operation}.png")
        if plot(rows, operation, image):
            section += [f"![{operation}](results/{image.name})", ""]
    before, after = RESULTS.read_text().split(MARK)
    RESULTS.write_text(before + MARK + "\n" + "\n".join(section) + after)


if __name__ == "__main__":
    main()
