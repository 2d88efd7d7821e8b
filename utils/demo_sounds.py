"""Sound: made music for spots and made stadium sound for play, for the demo set."""

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 24_000
CREST_LIMIT = 4.0  # peaks beyond this many RMS are bent, so that a loud recording does not clip
PROGRESSIONS = ((0, 7, 9, 5), (0, 9, 5, 7), (9, 5, 0, 7), (0, 5, 7, 5))  # semitones above the key
VOWELS = (
    (730, 1090, 2440),
    (530, 1840, 2480),
    (270, 2290, 3010),
    (570, 840, 2410),
    (300, 870, 2240),
)
# Formants of American vowels: Peterson and Barney (1952), "Control methods used in a study of the
# vowels", table II, men.


@dataclass(frozen=True)
class Music:
    """The tune of a spot; `speech` and `crowd` are levels beside the music at 1."""

    beats_per_minute: int
    key_semitones: int
    brightness: float = 0.6
    drums: float = 1.0
    speech: float = 0.0
    crowd: float = 0.0


@dataclass(frozen=True)
class Arena:
    """The sound of a venue; `speech` (a commentator) and `organ` are levels beside the crowd at 1.

    `hit_hertz` is the pitch of ball or puck, `hits_per_second` how often it is struck.
    """

    hit_hertz: float
    hits_per_second: float
    whistle: bool = True
    speech: float = 0.0
    organ: float = 0.0


def ad_sound(music: Music, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Returns (seconds x 24,000,) float32 of RMS 1: chords, arpeggio, beat, often speech."""
    n_samples = round(seconds * SAMPLE_RATE)
    mixed = _normal(_tune(music, n_samples, rng))
    if music.speech:
        mixed += music.speech * _normal(_speech(n_samples, 190, rng))
    if music.crowd:
        mixed += music.crowd * _normal(_crowd(n_samples, rng))
    return _limited(mixed)


def game_sound(arena: Arena, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Returns (seconds x 24,000,) float32 of RMS 1: a crowd that swells, hits, whistles, speech."""
    n_samples = round(seconds * SAMPLE_RATE)
    mixed = _normal(_crowd(n_samples, rng))
    for _ in range(rng.poisson(arena.hits_per_second * seconds)):
        _add(mixed, _hit(arena.hit_hertz * rng.uniform(0.9, 1.1), rng), rng.uniform(0, seconds))
    if arena.whistle:
        for _ in range(1 + rng.poisson(seconds / 10)):
            _add(mixed, 1.6 * _whistle(rng.uniform(0.25, 0.7)), rng.uniform(0, seconds))
    if arena.speech:
        mixed += arena.speech * _normal(_speech(n_samples, 125, rng))
    if arena.organ:
        tune = Music(int(rng.integers(90, 120)), int(rng.integers(12)), brightness=0.8, drums=0)
        mixed += arena.organ * _normal(_tune(tune, n_samples, rng))
    return _limited(mixed)


def _tune(music: Music, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns four chords around and around: a held pad, eighth notes, a bass and drums."""
    beat = 60 / music.beats_per_minute
    tune = np.zeros(n_samples)
    chords = PROGRESSIONS[int(rng.integers(len(PROGRESSIONS)))]
    order = rng.permutation(8) % 4
    kick, snare, hat = _kick(), _noise_tap(0.16, 0.05, rng), _noise_tap(0.05, 0.012, rng)
    for bar in range(int(n_samples / SAMPLE_RATE / (4 * beat)) + 1):
        root = 48 + music.key_semitones + chords[bar % 4]
        third = 3 if chords[bar % 4] == 9 else 4
        notes = (root, root + third, root + 7, root + 12)
        start = bar * 4 * beat
        for note in notes[:3]:
            pad = _note(note + 12, 4 * beat, music.brightness, decay=3.0, attack=0.08)
            _add(tune, 0.35 * pad, start)
        for eighth in range(8):
            at = start + eighth * beat / 2
            pluck = _note(notes[order[eighth]] + 24, beat, music.brightness, decay=0.2)
            _add(tune, 0.55 * pluck, at)
            _add(tune, 0.12 * music.drums * hat, at)
        for quarter in range(4):
            at = start + quarter * beat
            _add(tune, 0.7 * _note(root - 12, beat, 0.4, decay=0.3), at)
            _add(tune, 0.9 * music.drums * (0.5 * snare if quarter % 2 else kick), at)
    return tune


def _note(
    semitone: float, seconds: float, brightness: float, *, decay: float, attack: float = 0.004
) -> np.ndarray:
    """Returns one MIDI note of six harmonics, each weaker than the last by `brightness`."""
    hertz = 440 * 2 ** ((semitone - 69) / 12)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    first = np.exp(2j * np.pi * hertz * time)
    wave, harmonic = np.zeros(len(time)), first
    for k in range(6):
        wave += brightness**k * harmonic.imag
        harmonic = harmonic * first
    fade = np.minimum(1, (seconds - time) / 0.02)
    return wave * np.exp(-time / decay) * np.minimum(1, time / attack) * fade


def _kick() -> np.ndarray:
    time = np.arange(round(0.22 * SAMPLE_RATE)) / SAMPLE_RATE
    sweep = 2 * np.pi * (50 * time - 4.5 * np.exp(-time / 0.03))  # 200 Hz falling to 50 Hz
    return np.sin(sweep) * np.exp(-time / 0.07)


def _noise_tap(seconds: float, decay: float, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.diff(rng.normal(0, 1, len(time) + 1)) * np.exp(-time / decay)


def _speech(n_samples: int, pitch_hertz: float, rng: np.random.Generator) -> np.ndarray:
    """Returns babble: syllables of a gliding pitch under three formants, with pauses for breath."""
    speech, at = np.zeros(n_samples), rng.uniform(0, 0.5)
    while at < n_samples / SAMPLE_RATE:
        seconds = rng.uniform(0.1, 0.24)
        time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = pitch_hertz * rng.uniform(0.8, 1.3)
        glide = time + rng.uniform(-0.12, 0.12) * time**2 / seconds
        formants = np.array(VOWELS[int(rng.integers(len(VOWELS)))])
        first = np.exp(2j * np.pi * pitch * glide)
        wave, harmonic = np.zeros(len(time)), first
        for k in range(1, int(3600 / pitch)):
            gain = np.sum(np.exp(-(((k * pitch - formants) / (90, 130, 180)) ** 2)) / (1, 2, 4))
            wave += (gain + 0.02) * harmonic.imag
            harmonic = harmonic * first
        _add(speech, wave * np.sin(np.pi * time / seconds) ** 0.5, at)
        if rng.random() < 0.5:  # a consonant
            _add(speech, 0.25 * _noise_tap(0.06, 0.02, rng), at)
        at += seconds + (rng.uniform(0.4, 1.0) if rng.random() < 0.12 else rng.uniform(0.01, 0.05))
    return speech


def _crowd(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns thousands of voices: noise in bands that swell and fall, each in its own time."""
    crowd = np.zeros(n_samples)
    for centre_hertz, level in ((350, 1.0), (800, 1.0), (1600, 0.6), (3500, 0.3)):
        crowd += level * _band_noise(n_samples, centre_hertz, rng) * _swell(n_samples, rng)
    for _ in range(rng.poisson(n_samples / SAMPLE_RATE * 3)):  # clapping close to the microphone
        _add(crowd, 0.12 * _noise_tap(0.04, 0.01, rng), rng.uniform(0, n_samples / SAMPLE_RATE))
    return crowd


def _band_noise(n_samples: int, centre_hertz: float, rng: np.random.Generator) -> np.ndarray:
    """Returns noise of RMS 1 in about an octave, repeated every 2.7 s as short FFTs are fast."""
    n = 1 << 16
    octaves = np.log2(np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 1) / centre_hertz)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(0, 1, n)) * np.exp(-((octaves / 0.7) ** 2)))
    return np.resize(_normal(noise), n_samples)


def _swell(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a level that wanders between a murmur and a roar over seconds."""
    n_knots = int(n_samples / SAMPLE_RATE / 1.2) + 2
    level = np.exp(rng.normal(-0.4, 0.45, n_knots))
    return np.interp(np.linspace(0, n_knots - 1, n_samples), np.arange(n_knots), level)


def _whistle(seconds: float) -> np.ndarray:
    """Returns a referee's whistle: two pitches that beat, chopped by the rolling pea."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 3050 * time) + 0.7 * np.sin(2 * np.pi * 3400 * time)
    pea = 0.6 + 0.4 * np.sin(2 * np.pi * 38 * time)
    return tone * pea * np.minimum(1, np.minimum(time, seconds - time) / 0.02)


def _hit(hertz: float, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(round(0.12 * SAMPLE_RATE)) / SAMPLE_RATE
    thump = np.sin(2 * np.pi * hertz * time) * np.exp(-time / 0.02)
    return 3 * (thump + 0.3 * rng.normal(0, 1, len(time)) * np.exp(-time / 0.004))


def _add(sound: np.ndarray, part: np.ndarray, start_seconds: float) -> None:
    start = int(start_seconds * SAMPLE_RATE)
    part = part[: max(0, len(sound) - start)]
    sound[start : start + len(part)] += part


def _normal(sound: np.ndarray) -> np.ndarray:
    return sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9)


def _limited(sound: np.ndarray) -> np.ndarray:
    bent = CREST_LIMIT * np.tanh(_normal(sound) / CREST_LIMIT)
    return _normal(bent).astype(np.float32)
