"""Codecs for tests of the evaluation, as good or as bad as a test wants them."""

import numpy as np
import soundfile

from jaxcodec.baselines.system import RATE, Outcome, Setting, Trial


class Noisy:
    """Adds noise at the signal-to-noise ratio of its setting; inf is a copy."""

    kind = "external"
    version = "1"

    def __init__(self, name="noisy", ratios=(20, 10, 0), delay=0, kind="external"):
        self.name = name
        self.kind = kind
        self.about = {"programs": '<none> & "no"'}
        self.delay = delay
        self.settings = tuple(
            Setting(f"{ratio}dB", 1000.0 * rank, (("ratio", str(ratio)),))
            for rank, ratio in enumerate(sorted(ratios), start=1)
        )
        self.calls = []

    def run(self, clips, settings):
        for index, clip in enumerate(clips):
            for setting in settings:
                self.calls.append((len(clip), setting.label))
                yield Trial(index, setting, self._code(clip, setting))

    def _code(self, clip, setting):
        ratio = float(dict(setting.values)["ratio"])
        noise = np.random.default_rng(7).normal(size=len(clip))
        level = np.sqrt(np.mean(clip**2)) if np.any(clip) else 0.01
        noisy = clip + level * 10 ** (-ratio / 20) * noise
        late = np.pad(noisy, (max(self.delay, 0), 0))[max(-self.delay, 0) :]
        return Outcome(
            waveform=late.astype(np.float32),
            num_bytes=max(int(setting.bitrate / 8 * len(clip) / RATE), 1),
            payload_bytes=None,
            encode_seconds=0.5,
            decode_seconds=0.25,
        )


class Broken(Noisy):
    """Codes no clip."""

    def _code(self, clip, setting):
        return ValueError("the encoder <b>fell over</b>")


def voice(seconds=1.5, seed=0):
    """Something with pitch, pauses and noise, in 16 bits like a recording."""
    numbers = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 110 + 40 * seed + 15 * np.sin(5 * time)
    tone = np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / RATE))
    loud = np.maximum(np.sin(2 * np.pi * 2.3 * time + seed), 0)
    mixed = loud * (0.2 * tone + 0.05 * numbers.normal(size=len(time)))
    return (np.rint(mixed * 32767) / 32768).astype(np.float32)


def write_corpus(folder, num_clips=3):
    """A folder of clips with a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,language,speaker"]
    for seed in range(num_clips):
        path = folder / f"clip{seed}.wav"
        soundfile.write(path, voice(seed=seed), RATE, "PCM_16")
        lines.append(f"clip{seed}.wav,{'en' if seed % 2 else 'nl'},s{seed}")
    (folder / "MANIFEST.csv").write_text("\n".join(lines) + "\n")
    return folder
