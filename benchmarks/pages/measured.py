"""Tables of single measurements: one function for each kind of result file, by the name that pages use."""

from __future__ import annotations

from statistics import mean
from typing import Any

from benchmarks.pages.table import Table, grouped, matching, number, percent, read


def cpu() -> Table:
    rows = []
    for name, row in read("cpu.json")["rows"].items():
        low, high = row.get("ratios", (None, None))
        spread = f" ({number(low, _ratio)}-{number(high, _ratio)})" if low is not None else ""
        ratio = f"{number(row['ratio'], _ratio)}×{spread}" if "ratio" in row else "–"
        times = [number(row.get(key), _seconds) for key in ("baseline_s", "patchbank_s")]
        rows.append([name, *times, ratio, str(row.get("must", "–")), row.get("note", "")])
    columns = ["work", "baseline", "patchbank", "ratio", "must", "note"]
    return Table(columns, rows, ["cpu.json"], "make bench", "Speed and memory against literal baselines")


def backbones() -> Table:
    found = read("backbones.json")["images_per_second"]
    columns = list(next(iter(found.values())))
    rows = [[name, *(number(of.get(key), "g") for key in columns)] for name, of in found.items()]
    note = "224×224 pixels, levels 2 and 3; the number behind the runtime is the batch."
    title = "Images per second of each network"
    return Table(["backbone", *columns], rows, ["backbones.json"], "python -m benchmarks.backbones", title, note)


def large() -> Table:
    rows = []
    for row in read("large.json")["rows"]:
        stages = ", ".join(f"{key} {value:.0f}" for key, value in row["fit_seconds"].items() if key != "total")
        rows.append([
            row["options"] or "default", row["plan"], f"{row['peak_gib']:.2f}",
            f"{row['seconds']:.0f}", stages, f"{row['covering_radius']:.2f}", f"{row['threshold']:.2f}",
        ])  # fmt: skip
    columns = ["options", "plan", "peak, GiB", "seconds", "of them", "covering radius", "threshold"]
    return Table(columns, rows, ["large.json"], "python -m benchmarks.large", "20 000 drawn parts within 4 GiB")


def resolution() -> Table:
    shares = read("resolution.json")["shares"]
    sizes = [key for key in next(iter(shares.values())) if key.isdigit()]
    rows = []
    for key, of in shares.items():
        name, size = key.split("/")
        scale = f"{of['input_pixels_per_inspected']:.2f}"
        rows.append([name, size, scale, str(of["images"]), *(number(of.get(s), ".2f") for s in sizes)])
    columns = ["set", "size", "px of the image for one inspected", "test images", *(f"{s} px" for s in sizes)]
    title = "Share of images with a spot that are rejected, by the diameter of the spot"
    return Table(columns, rows, ["resolution.json"], "python -m benchmarks.resolution ROOT", title)


def calibration() -> Table:
    names = [name for name in matching("calibration-*.json") if "burst" not in name]
    command = "python -m benchmarks.calibration DATASET [--sizes 160,224] [--image-size 512]"
    return _rates(names, command, "Realised false-alarm rates, per cent")


def bursts() -> Table:
    command = "python -m benchmarks.calibration DATASET --burst 5 --parts 100"
    return _rates(matching("calibration-*burst*.json"), command, "The same where each part has five pictures, per cent")


def _rates(names: list[str], command: str, title: str) -> Table:
    rows: list[list[str]] = []
    targets: list[str] = []
    for name in names:
        found = read(name)
        for way, rates in found["ways"].items():
            targets = [f"{100 * rate['asked']:g} % target" for rate in rates]
            of = name.removeprefix("calibration-").removesuffix(".json")
            each = [
                f"{100 * rate['mean']:.2f} ± {100 * rate['standard_error']:.2f}"
                + (f" / {rate['recall']:.2f}" if "recall" in rate else "")
                for rate in rates
            ]
            rows.append([of, grouped(found["images"]), str(found["splits"]), way, *each])
    note = "Mean ± standard error over splits."
    if any("/" in cell for row in rows for cell in row):
        note += " After the stroke: the recall of all defective images."
    return Table(["set", "images", "splits", "scheme", *targets], rows, names, command, title, note)


def alignment() -> Table:
    rows, names = [], matching("alignment-*.json")
    for name in names:
        for row in read(name)["rows"]:
            rows.append([
                row["dataset"], row["method"], "aligned" if row["align"] else "as it is",
                *(number(row.get(key)) for key in ("image_auroc", "pixel_auroc", "aupro")),
                number(row.get("refused"), "d"), percent(row.get("not_inspected")),
            ])  # fmt: skip
    columns = ["set", "method", "", "image AUROC", "pixel AUROC", "AUPRO", "refused", "not inspected"]
    return Table(columns, rows, names, "python -m benchmarks.alignment DATASET --shots 60", "Alignment")


def contamination() -> Table:
    rows, names = [], matching("contamination-*.json")
    for name in names:
        for row in read(name)["rows"]:
            planted = f"{row['planted']} ({100 * row['share']:.0f} %)"
            out = f"{row['suspicious']} ({row['planted_suspicious']})"
            shares = [number(row[key]) for key in ("contaminated", "dropped", "clean")]
            rows.append([planted, str(row["in_first"]), out, *shares])
    columns = [
        "planted", "among the first as many", "stand out (planted ones)", "image AUROC as it is",
        "with `--drop-suspicious`", "never planted",
    ]  # fmt: skip
    return Table(columns, rows, names, "python -m benchmarks.contamination DATASET", "Defects among the good images")


def living() -> Table:
    rows, names = [], matching("living-*.json")
    for name in names:
        for row in read(name)["rows"]:
            rows.append([
                name.removeprefix("living-").removesuffix(".json"), row["bank"], grouped(row["vectors"]),
                f"{row['covering_radius']:.2f}", number(row["image_auroc"]), number(row["pixel_auroc"]),
                f"{row['seconds']:.1f}",
            ])  # fmt: skip
    columns = ["set", "bank", "patches", "covering radius", "image AUROC", "pixel AUROC", "seconds"]
    return Table(columns, rows, names, "python -m benchmarks.living DATASET", "A bank that grows and forgets")


def teaching() -> Table:
    """Recall and false-alarm rate after N taught images, and how many other images of the kind are still rejected."""
    rows, names, counts = [], matching("teaching-*.json"), [0, 1, 5, 20]
    for name in names:
        found = read(name)["rows"]
        for threshold in dict.fromkeys(row["threshold"] for row in found):
            by_count = {row["taught"]: row for row in found if row["threshold"] == threshold}
            each = [
                f"{percent(row['recall'])} / {percent(row['false_alarm_rate'])} / {percent(row['others_rejected'])}"
                for row in (by_count[count] for count in counts)
            ]
            rows.append([name.removeprefix("teaching-").removesuffix(".json"), threshold, *each])
    note = "Recall of defective test parts / false-alarm rate of good ones / other images with the reflection rejected."
    columns = ["set", "threshold", *(f"taught {count}" for count in counts)]
    return Table(columns, rows, names, "python -m benchmarks.teaching DATASET", "Teaching false alarms", note)


def service() -> Table:
    keys = ["batch", "clients", "requests_per_second", "p50_ms", "p95_ms", "p99_ms", "answered", "refused", "lost"]
    rows = [[_plain(row[key]) for key in keys] for row in read("service.json")["rows"]]
    columns = ["batch", "clients", "requests/s", "p50, ms", "p95, ms", "p99, ms", "answered", "refused", "lost"]
    command = "python -m benchmarks.service MODEL IMAGE…"
    note = "The demo's gears (256×320), PatchCore at its default; client and service on the same cores."
    return Table(columns, rows, ["service.json"], command, "The service under load", note)


def stations() -> Table:
    found = read("stations.json")["recording"]
    rows = [[str(row["together"]), f"{row['SQLite_ms']:.1f}", f"{row['PostgreSQL_ms']:.1f}"] for row in found]
    title = "Time until records are durable, each with an image of 110 kB"
    columns = ["records together", "SQLite, ms", "PostgreSQL, ms"]
    return Table(columns, rows, ["stations.json"], "python -m benchmarks.stations", title)


def stations_load() -> Table:
    found = read("stations.json")["rows"]
    keys = ("requests_per_second", "p50_ms", "p95_ms", "p99_ms")
    rows = [
        [row["history"], str(row["services"]), *(f"{row[key]:.0f}" for key in keys)]
        + [str(row[key]) for key in ("answered", "refused", "lost")]
        for row in found
    ]
    columns = ["history", "services", "requests/s", "p50, ms", "p95, ms", "p99, ms", "answered", "refused", "lost"]
    note = "8 clients for each service, all on one machine; the model inspects 256 pixels."
    return Table(columns, rows, ["stations.json"], "python -m benchmarks.stations", "Services under load", note)


def distributed() -> Table:
    names = sorted(matching("distributed-*.json"), key=lambda name: int(name.split("-")[1].removesuffix(".json")))
    keys = ["workers", "rounds", "up_mb", "down_mb", "seconds", "plan_s", "worker_mb"]
    rows = []
    for name in names:
        found = read(name)
        fixed = [grouped(found["rows"]), grouped(found["kept"]), f"{found['alone_s']:.1f}"]
        rows += [[*fixed, *(_plain(row[key]) for key in keys)] for row in found["table"]]
    columns = [
        "vectors", "kept", "one process, s", "workers", "rounds", "MB from the workers", "MB to them", "seconds",
        "forecast, s", "MB of a worker",
    ]  # fmt: skip
    note = "Drawn features of 128 numbers; the workers select the same rows as one process."
    title = "A fit shared by workers on one machine"
    return Table(columns, rows, names, "python -m benchmarks.distributed --rows N", title, note)


def cluster_simulation() -> Table:
    rows = [
        [
            grouped(row["images"]), grouped(row["workers"]), _plain(row["worker_gb"]), str(row["rounds"]),
            f"{row['up_gb']:.2f}", f"{row['down_gb']:.2f}", _duration(row["plan_s"]), _duration(row["seconds"]),
            str(row["lost"]),
        ]
        for row in read("cluster_simulation.json")["table"]
    ]  # fmt: skip
    columns = [
        "images", "workers", "GB of each", "rounds", "GB from the workers", "GB to them", "forecast", "simulated",
        "workers lost",
    ]  # fmt: skip
    command = "python -m benchmarks.cluster_simulation"
    return Table(columns, rows, ["cluster_simulation.json"], command, "Simulated fits on a cluster")


def geometry_cost() -> Table:
    rows = [
        [f"`{name}`", f"{row['image_ms']:.0f}", f"{row['decode_ms']:.0f}", f"{row['fit_s']:.1f}"]
        for name, row in read("geometry_cost.json")["cost"].items()
    ]
    columns = ["channels or method", "one prediction, ms", "of it reading and geometry, ms", "fit, s"]
    command = "python -m benchmarks.geometry --kinds ring --seeds 0 --cost --out cost.json"
    note = "Parts of 400×400 points, EfficientNet-Lite0, 40 training parts; medians of 15 predictions, in turn."
    return Table(columns, rows, ["geometry_cost.json"], command, "What geometry costs", note)


def accuracy() -> Table:
    """Image AUROC and recall of each variant on each set, mean of the splits, and the means over the sets."""
    found = read("accuracy.json")["rows"]
    sets = list(dict.fromkeys(name for of in found.values() for name in of))
    rows = []
    for variant, of in found.items():
        each = {name: _mean_of(of[name].values()) for name in sets if name in of}
        cells = [
            f"{each[name]['image_auroc']:.3f} / {each[name]['recall_at_1']:.2f}" if name in each else "–"
            for name in sets
        ]
        totals = [
            f"{mean(values):.3f}"
            for key in ("image_auroc", "recall_at_1", "recall_at_5", "aupro")
            if (values := [one[key] for one in each.values() if one.get(key) is not None])
        ]
        rows.append([variant, *cells, *totals])
    columns = ["", *sets, "image AUROC", "recall at 1 %", "at 5 %", "AUPRO"]
    note = (
        "Image AUROC / recall at a false-alarm rate of 1 %; mean of the splits. AUPRO is the mean of sets with masks."
    )
    command = (
        "python -m benchmarks.accuracy DATA --cache CACHE --splits 0,1,2 --settings 384,512,768,256 "
        "--out benchmarks/results/accuracy.json"
    )
    return Table(columns, rows, ["accuracy.json"], command, "Variants of PatchCore", note)


def _mean_of(runs: Any) -> dict[str, float | None]:
    runs = list(runs)
    found = {key: [run[key] for run in runs if run.get(key) is not None] for key in runs[0]}
    return {key: mean(values) if values else None for key, values in found.items()}


def _plain(value: Any) -> str:
    """A number of any size, with three digits that say something."""
    if isinstance(value, int):
        return grouped(value)
    if abs(value) >= 100:
        return grouped(value)
    return f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _duration(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
