"""Runs the browser page in headless Chromium and compares its samples with JAX's.

    (cd tools/web && npm install)
    jaxcodec export --to onnx --out esc-onnx
    python -m tools.check_web esc-onnx tests/samples/speech.flac [--screenshot page.png]

The recording is given to the page twice: as a .jxc file that JAX coded, and as a WAV
that the page codes itself.
"""

import argparse
import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soundfile

WEB = Path(__file__).parent / "web"
TOLERANCE = 1e-4  # of the peak
PATIENCE = 300  # seconds
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Site(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and takes what the page reports."""

    extensions_map: ClassVar = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def __init__(
        self, *rest: Any, reports: list[Any], arrived: threading.Event, **more
    ):
        self._reports, self._arrived = reports, arrived
        super().__init__(*rest, **more)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        failed = query.get("error")
        self._reports.append(failed[0] if failed else np.frombuffer(body, np.float32))
        self.send_response(204)
        self.end_headers()
        self._arrived.set()

    def log_message(self, *_: Any) -> None:
        """Only faults are of interest."""


def browser() -> str | None:
    """The command of an installed Chromium, if there is one."""
    return next((name for name in BROWSERS if shutil.which(name)), None)


def visit(
    site: Path,
    query: dict[str, str],
    screenshot: Path | None = None,
    page: str = "index.html",
) -> np.ndarray:
    """Opens the page and returns the samples that it decoded.

    Raises:
        RuntimeError: the page reported an error, or nothing in time.
    """
    command = browser()
    if command is None:
        raise RuntimeError("no Chromium is installed: tried " + ", ".join(BROWSERS))
    reports: list[Any] = []
    arrived = threading.Event()
    handler = functools.partial(
        Site, directory=str(site), reports=reports, arrived=arrived
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/{page}?"
        address += urllib.parse.urlencode(query | {"report": "/report"})
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--mute-audio"]
        if screenshot is not None:
            wait = f"--virtual-time-budget={1000 * PATIENCE}"
            options += [f"--screenshot={screenshot}", "--window-size=900,900", wait]
        # a browser's children may still write for a moment after it has ended
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            process = subprocess.Popen(
                [command, *options, f"--user-data-dir={profile}", address]
                + ([] if screenshot else ["--remote-debugging-port=0"]),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                came = arrived.wait(PATIENCE)
                if screenshot is not None:
                    process.wait(PATIENCE)
            finally:
                process.terminate()
                process.wait(30)
        server.shutdown()
    if not came:
        raise RuntimeError(f"the page reported nothing within {PATIENCE} s.")
    if isinstance(reports[0], str):
        raise RuntimeError(f"the page failed: {reports[0]}")
    return reports[0]


def make_site(folder: Path, model: Path) -> Path:
    """Links the page, its packages and an exported model into one folder."""
    for path in WEB.iterdir():
        if path.name != "model":
            (folder / path.name).symlink_to(path)
    (folder / "model").symlink_to(model.resolve())
    return folder


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("export", type=Path, help="folder of `jaxcodec export`")
    parser.add_argument("audio", type=Path)
    parser.add_argument("--model", help="that was exported; the default if left out")
    parser.add_argument("--screenshot", type=Path, help="PNG of the page at the end")
    chosen = parser.parse_args(arguments)
    import jaxcodec

    codec = jaxcodec.load(chosen.model)
    waveform, rate = soundfile.read(chosen.audio, dtype="float32", always_2d=True)
    waveform = waveform[:, 0]
    if rate != codec.config.sample_rate:
        sys.exit(f"{chosen.audio} has {rate} Hz: give {codec.config.sample_rate} Hz.")
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        site = make_site(Path(temporary), chosen.export)
        (site / "speech.jxc").write_bytes(codec.encode(waveform, rate).to_bytes())
        soundfile.write(site / "speech.wav", waveform, rate, subtype="FLOAT")
        for name, streams in (("speech.jxc", None), ("speech.wav", 2)):
            query = {"file": name} | ({"streams": str(streams)} if streams else {})
            shot = chosen.screenshot if name == "speech.wav" else None
            made = visit(site, query, shot)
            expected = codec.decode(codec.encode(waveform, rate, num_streams=streams))
            if made.shape != expected.shape:
                sys.exit(f"{name}: {made.shape} samples, JAX has {expected.shape}.")
            error = float(np.abs(made - expected).max() / np.abs(expected).max())
            print(f"{name}, {streams or 'all'} streams: {error:.1e} of the peak")
            worst = max(worst, error)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
