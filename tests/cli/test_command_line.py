"""One's own files from end to end, by the commands themselves; and each that is no such file."""

import csv
import gzip
import io
import pathlib
import signal
import subprocess
import sys

import chex
import jax
import numpy as np
import PIL.Image
import pytest

import jaxgen as jg
from jaxgen._cli import _images as images
from jaxgen._cli import _score, _train
from jaxgen._cli import _text as text
from jaxgen._cli._main import main

SHAPE, NUM_IMAGES = (3, 4), 30
TEXT = "To be, or not to be:\nthat is the question.\n" * 9
SMALL = ["--num-steps", "6", "--batch-size", "8", "--validate-every", "3"]


def run(capsys, *arguments):
    """The output of a command that is to succeed."""
    capsys.readouterr()
    main([str(argument) for argument in arguments])
    return capsys.readouterr()


def refused(capsys, *arguments):
    """The message of a command that is to end with one."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main([str(argument) for argument in arguments])
    assert ending.value.code == 2
    return capsys.readouterr().err


def pixels():
    return np.random.default_rng(0).choice([0, 85, 170, 255], (NUM_IMAGES, *SHAPE)).astype("u1")


def save_pngs(folder, array):
    folder.mkdir()
    for i, image in enumerate(array):
        PIL.Image.fromarray(image).save(folder / f"{i:02}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data of every kind, and a bundle of each model kind."""
    place = tmp_path_factory.mktemp("files")
    save_pngs(place / "pngs", pixels())
    np.save(place / "images.npy", pixels())
    header = bytes([0, 0, 8, 3]) + np.array(pixels().shape, ">u4").tobytes()
    (place / "images.idx").write_bytes(header + pixels().tobytes())
    (place / "images.idx.gz").write_bytes(gzip.compress(header + pixels().tobytes()))
    (place / "play.txt").write_text(TEXT)
    flags = ["--width", "6", *SMALL]
    for data, name, more in (
        ("pngs", "images", ["--gray-levels", "4"]),
        ("play.txt", "text", ["--context", "10", "--num-layers", "1", "--model", "recurrence"]),
    ):
        main(["train", str(place / data), str(place / f"{name}.safetensors"), *flags, *more])
    return place


def test_training_leaves_a_bundle_that_says_what_it_is(place):
    found = jg.read_bundle(place / "images.safetensors")
    assert found.model == jg.MADE(12, 4, (6,))
    assert found.vocabulary == jg.data.GrayLevels(SHAPE, 4)
    assert found.metadata["data"] == "pngs"
    assert 0 < found.metadata["validation_nats_per_pixel"] < 2 * np.log(4)
    found = jg.read_bundle(place / "text.safetensors")
    assert found.model == jg.LinearRecurrence(10, len(set(TEXT)), 6, 1)
    assert found.vocabulary == jg.data.CharacterVocabulary("".join(sorted(set(TEXT))))
    assert sorted(p.name for p in place.iterdir() if "safetensors" in p.name) == [
        "images.safetensors",
        "text.safetensors",
    ]


@pytest.mark.parametrize("name", ["pngs", "images.npy", "images.idx", "images.idx.gz"])
def test_images_of_every_kind_are_read_alike(place, name):
    chex.assert_trees_all_equal(images.read(place / name).pixels, pixels())


def test_scores_of_images_are_those_of_the_library(place, capsys):
    bundle = place / "images.safetensors"
    model, params = jg.load(bundle)
    x = (pixels() // 85).reshape(NUM_IMAGES, -1).astype(int)
    expected = -np.asarray(jax.jit(jg.log_prob)(model, params, x))
    rows = list(
        csv.DictReader(io.StringIO(run(capsys, "score", bundle, place / "pngs", "--csv").out))
    )
    assert [row["image"] for row in rows] == [f"{i:02}.png" for i in range(NUM_IMAGES)]
    np.testing.assert_allclose([float(row["nats"]) for row in rows], expected, rtol=1e-5)
    bits = [float(row["bits_per_pixel"]) for row in rows]
    np.testing.assert_allclose(bits, expected / 12 / np.log(2), rtol=1e-5)
    table = run(capsys, "score", bundle, place / "images.npy").out.splitlines()
    assert len(table) == NUM_IMAGES + 2
    _, nats, bits = table[-1].split()
    np.testing.assert_allclose(float(nats), expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(float(bits), expected.mean() / 12 / np.log(2), atol=1e-4)


@pytest.mark.parametrize("overlap", [0, 5])
def test_scores_of_lines_add_up_to_that_of_the_text(place, capsys, overlap):
    bundle = place / "text.safetensors"
    flags = ["--csv", "--overlap", overlap]
    rows = list(
        csv.DictReader(io.StringIO(run(capsys, "score", bundle, place / "play.txt", *flags).out))
    )
    assert [row["line"] for row in rows] == [str(i + 1) for i in range(18)]
    found = jg.read_bundle(bundle)
    windows = jg.data.evaluation_windows(found.vocabulary.encode(TEXT), 10, overlap)
    log_probs = jg.criticism.conditional_log_probs(found.model, found.params, windows.x)
    log_probs = np.take_along_axis(log_probs, windows.x[..., None], axis=-1)[..., 0]
    nats = -log_probs[windows.is_scored].astype(np.float64)
    chex.assert_trees_all_close(sum(float(row["nats"]) for row in rows), nats.sum(), rtol=1e-4)
    length = len("To be, or not to be:\n")
    chex.assert_trees_all_close(float(rows[0]["nats"]), nats[:length].sum(), rtol=1e-4)
    bits = nats[:length].mean() / np.log(2)
    chex.assert_trees_all_close(float(rows[0]["bits_per_character"]), bits, rtol=1e-4)


def test_a_text_shorter_than_the_context_is_scored_by_what_there_is(place, capsys, tmp_path):
    (tmp_path / "short.txt").write_text("To")
    found = jg.read_bundle(place / "text.safetensors")
    x = np.pad(found.vocabulary.encode("To"), (0, 8))
    log_probs = jg.criticism.conditional_log_probs(found.model, found.params, x[None])[0]
    nats = -(log_probs[0, x[0]] + log_probs[1, x[1]])
    out = run(capsys, "score", place / "text.safetensors", tmp_path / "short.txt").out
    assert f"{nats:.3f}" in out.splitlines()[-1]


def test_samples_of_images(place, capsys, tmp_path):
    bundle = place / "images.safetensors"
    model, params = jg.load(bundle)
    levels = jg.data.GrayLevels(SHAPE, 4)
    run(capsys, "sample", bundle, tmp_path / "drawn.npy", "--num-samples", 5, "--seed", 3)
    x = jg.sample(jax.random.key(3), model, params, 5).x
    chex.assert_trees_all_equal(np.load(tmp_path / "drawn.npy"), levels.decode(np.asarray(x)))
    flags = ["--num-samples", 5, "--temperature", 1e-4]
    run(capsys, "sample", bundle, tmp_path / "drawn", *flags)
    drawn = images.read(tmp_path / "drawn").pixels
    assert drawn.shape == (5, *SHAPE)
    assert (drawn == drawn[:1]).all()  # cold draws are the likeliest
    run(
        capsys, "sample", bundle, tmp_path / "new" / "sheet.png", "--num-samples", 5, "--top-p", 0.5
    )
    with PIL.Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.size == (3 * (4 * 14 + 2), 2 * (3 * 14 + 2))


def test_filled_images_keep_what_is_known(place, capsys, tmp_path):
    bundle, out = place / "images.safetensors", tmp_path / "filled.npy"
    flags = ["--num-samples", 2, "--num-images", 4]
    for side, part in (
        ("left", np.s_[..., :1]),
        ("right", np.s_[..., 3:]),
        ("bottom", np.s_[..., 2:, :]),
        ("top", np.s_[..., :1, :]),
    ):
        known = [*flags, "--observed", side, "--share", 0.3]
        run(capsys, "fill", bundle, place / "pngs", out, *known)
        filled = np.load(out)
        assert filled.shape == (2, 4, *SHAPE)
        given = np.broadcast_to(pixels()[:4], filled.shape)
        chex.assert_trees_all_equal(filled[part], given[part])
        assert (filled != given).any()
    run(capsys, "fill", bundle, place / "pngs", tmp_path / "filled.png", *flags)
    with PIL.Image.open(tmp_path / "filled.png") as sheet:
        assert sheet.size == (4 * (4 * 14 + 2), 4 * (3 * 14 + 2))


def test_text_goes_on_from_a_prompt(place, capsys, tmp_path):
    bundle, out = place / "text.safetensors", tmp_path / "drawn.txt"
    run(capsys, "sample", bundle, out, "--prompt", "To be", "--length", 40)
    drawn = out.read_text()
    assert drawn.startswith("To be")
    assert len(drawn) == 45
    assert set(drawn) <= set(TEXT)
    flags = ["--length", 7, "--num-samples", 2, "--temperature", 0.5]
    printed = run(capsys, "fill", bundle, place / "play.txt", *flags).out
    first, second = printed.removesuffix("\n").split("\n\n---\n\n")
    assert first[:-7] == second[:-7] == TEXT
    assert len(run(capsys, "sample", bundle, "--length", 25).out) == 26


def test_a_long_text_goes_on_as_the_model_says(place):
    """Each stretch is drawn given the half before it: cold, there is one way to go on."""
    found = jg.read_bundle(place / "text.safetensors")
    prompt = found.vocabulary.encode("To be, or ")

    def coldest(logits):
        return jg.samplers.temper(logits, 1e-5)

    key = jax.random.key(0)
    drawn = text.continued(key, found.model, found.params, prompt[None], 12, coldest)[0]
    written = prompt
    for _ in range(12):
        done = len(written) - 5 - (len(written) - 10) % 5  # what the stretch starts from
        x = np.pad(written[done:], (0, 10))[:10]
        log_probs = jg.criticism.conditional_log_probs(found.model, found.params, x[None])[0]
        written = np.append(written, np.argmax(log_probs[len(written) - done]))
    chex.assert_trees_all_equal(drawn, written)


def test_what_was_compressed_is_restored(place, capsys, tmp_path):
    code = tmp_path / "code"
    bundle = place / "text.safetensors"
    run(capsys, "compress", bundle, place / "play.txt", code)
    run(capsys, "restore", bundle, code, tmp_path / "play.txt")
    assert (tmp_path / "play.txt").read_bytes() == TEXT.encode()
    for place_of_damage in (4, 7, 15, 25, 40, -1):  # last, lengths, the digest, the code
        damaged = bytearray(code.read_bytes())
        damaged[place_of_damage] ^= 1
        (tmp_path / "damaged").write_bytes(damaged)
        error = refused(capsys, "restore", bundle, tmp_path / "damaged", tmp_path / "a")
        assert "damaged, " in error
    told = run(capsys, "inspect", code).out
    assert f"{len(TEXT):,} symbols, compressed by a model (chain)" in told
    assert f"rows: 1 of {len(TEXT):,} symbols, of 18 values" in told
    assert "damaged, a part's digest" in refused(capsys, "inspect", tmp_path / "damaged")
    told = run(capsys, "inspect", bundle).out
    assert "model: LinearRecurrence(num_dims=10, num_symbols=18" in told
    assert "vocabulary: CharacterVocabulary" in told
    run(capsys, "compress", bundle, place / "play.txt", code, "--portable")
    assert "nats apart where it is restored" in run(capsys, "inspect", code).out
    run(capsys, "restore", bundle, code, tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == TEXT.encode()
    error = refused(capsys, "restore", place / "images.safetensors", code, tmp_path / "a.npy")
    assert f"data holds {len(TEXT)} coordinates of 18 symbols, the model has 12 of 4" in error
    assert "not a file that compress wrote" in refused(
        capsys, "restore", bundle, place / "play.txt", tmp_path / "a"
    )
    bundle = place / "images.safetensors"
    run(capsys, "compress", bundle, place / "pngs", code)
    assert code.stat().st_size < 29 + 40 + pixels().size
    for out in ("restored.npy", "restored"):
        run(capsys, "restore", bundle, code, tmp_path / out)
        chex.assert_trees_all_equal(images.read(tmp_path / out).pixels, pixels())
    np.save(tmp_path / "gray.npy", pixels() // 2)
    error = refused(capsys, "compress", bundle, tmp_path / "gray.npy", code)
    assert "gray.npy: images have other gray levels than the model's 4" in error


@pytest.fixture(scope="module")
def latent(place):
    """The bundle of a VAE."""
    flags = ["--model", "vae", "--gray-levels", "4", "--width", "3", "--num-layers", "1", *SMALL]
    out = place / "latent"
    with jax.numpy_rank_promotion("allow"):  # inside distrax
        main(["train", str(place / "images.npy"), str(out), *flags, "--num-latents", "1"])
    return out


@pytest.mark.usefixtures("distrax_broadcasting")
def test_a_latent_variable_model_is_scored_by_a_bound_that_says_so(place, latent, capsys):
    found = jg.read_bundle(latent)
    assert found.model == jg.VAE(12, 4, 1, (3,))
    assert 0 < found.metadata["validation_bound_nats_per_pixel"] < 2 * np.log(4)
    x = (pixels() // 85).reshape(NUM_IMAGES, -1).astype(int)
    rule = jg.gauss_legendre(-8.0, 8.0, 60)
    log_prob = jax.jit(jg.objectives.quadrature_log_prob)(found.model, found.params, x, rule)
    exact = -np.asarray(log_prob, np.float64)
    printed = run(capsys, "score", latent, place / "pngs", "--num-samples", 500).out
    heading, *rows, total, told = printed.splitlines()
    assert heading.split() == ["image", "nats,", "at", "most", "bits", "per", "pixel"]
    assert "upper bounds on average, from 500 importance samples for each image" in told
    cells = [row.split() for row in rows]  # name, nats, ±, error, bits
    nats, errors, bits = np.array([[cell[i] for i in (1, 3, 4)] for cell in cells], float).T
    assert (np.abs(nats - exact) < 6.2 * errors + 2e-3).all()  # 1e-9 for each that is normal
    assert (errors > 0).all()
    chex.assert_trees_all_close(bits, nats / 12 / np.log(2), atol=1e-3, rtol=1e-7)
    chex.assert_trees_all_close(float(total.split()[1]), nats.sum(), atol=0.05, rtol=1e-7)
    chex.assert_trees_all_close(
        float(total.split()[3]), np.sum(errors**2) ** 0.5, atol=0.01, rtol=1e-7
    )


def test_a_table_of_bounds_has_their_errors(capsys):
    scores = _score.Scores(["a"], np.array([2.0]), np.array([4]), "image", "pixel", np.array([0.5]))
    _score._write_csv(scores)
    assert capsys.readouterr().out == (
        f"image,nats_at_most,standard_error,bits_per_pixel\na,2,0.5,{0.5 / np.log(2):.6g}\n"
    )


@pytest.mark.usefixtures("distrax_broadcasting")
def test_a_latent_variable_model_draws_by_way_of_its_prior(latent, capsys, tmp_path):
    run(capsys, "sample", latent, tmp_path / "drawn.npy", "--num-samples", 5, "--seed", 3)
    found = jg.read_bundle(latent)

    @jax.jit
    def draw(params):
        prior_key, data_key = jax.random.split(jax.random.key(3))
        z = found.model.prior(params).sample(seed=prior_key, sample_shape=(5,))
        return found.model.likelihood(params, z).sample(seed=data_key)

    expected = found.vocabulary.decode(np.asarray(draw(found.params)))
    chex.assert_trees_all_equal(np.load(tmp_path / "drawn.npy"), expected)


@pytest.mark.usefixtures("distrax_broadcasting")
def test_a_latent_variable_model_compresses_by_bits_back(place, latent, capsys, tmp_path):
    code = tmp_path / "code"
    told = run(capsys, "compress", latent, place / "pngs", code).out
    info = jg.coding.inspect(code.read_bytes()[29:])
    net = f"{info.net_bits / pixels().size:.3f} of them net"
    assert f"{net}, and {info.initial_bits:,} initial bits in all" in told
    assert info.initial_bits > 0
    run(capsys, "restore", latent, code, tmp_path / "restored.npy")
    chex.assert_trees_all_equal(np.load(tmp_path / "restored.npy"), pixels())


def test_an_interrupted_training_goes_on_to_the_same_bundle(place, capsys, tmp_path, monkeypatch):
    command = ["train", place / "images.npy", tmp_path / "a.safetensors", "--gray-levels", 2]
    command += ["--width", 3, "--num-steps", 60, "--valid-fraction", 0]
    run(capsys, *command)
    command[2] = tmp_path / "b.safetensors"
    fit = jg.training.fit

    def interrupted(*arguments, report_fn, **options):
        def report(step, numbers):
            report_fn(step, numbers)
            signal.raise_signal(signal.SIGINT)

        return fit(*arguments, report_fn=report, **options)

    monkeypatch.setattr(jg, "fit", interrupted, raising=False)
    with pytest.raises(SystemExit) as ending:
        main([str(argument) for argument in command])
    assert ending.value.code == 130
    assert "The same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists()
    monkeypatch.setattr(jg, "fit", fit)
    error = refused(capsys, *command, "--learning-rate", 0.1)
    assert "or remove the folder" in error
    run(capsys, *command)
    (one, a), (other, b) = (jg.load(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one == other
    chex.assert_trees_all_equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_checkpoint_of_another_text_is_another_trainings(tmp_path, monkeypatch):
    """The text is in the program of a step, so its digest is in the key."""
    keys = []

    def stop(key, *_, **__):
        keys.append(jax.random.key_data(key).tolist())
        raise KeyboardInterrupt

    monkeypatch.setattr(jg, "fit", stop, raising=False)
    flags = [*SMALL, "--model", "recurrence", "--width", "4", "--num-layers", "1", "--context", "8"]
    for name, content in (("a", TEXT), ("b", TEXT[::-1]), ("c", TEXT)):
        (tmp_path / name).write_text(content)
        with pytest.raises(SystemExit):
            main(["train", str(tmp_path / name), str(tmp_path / "out"), *flags])
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "pixelcnn"], jg.GatedPixelCNN(SHAPE, 16)),
        (["--gray-levels", 256, "--num-layers", 2],
         jg.MADE(12, 256, (500, 500), conditional=jg.models.LogisticMixture(256))),
        (["--model", "vae", "--num-latents", 3], jg.VAE(12, 16, 3, (200, 200))),
    ],
)  # fmt: skip
def test_models_of_images(place, flags, expected, monkeypatch):
    assert task_of(place / "images.npy", flags, monkeypatch).model == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--width", 6, "--dropout-rate", 0.5],
         jg.CausalTransformer(128, 18, 6, 4, 3, dropout_rate=0.5)),
        (["--unit", "bytes", "--context", 347], jg.CausalTransformer(347, 256)),
    ],
)  # fmt: skip
def test_models_of_text(place, flags, expected, monkeypatch):
    task = task_of(place / "play.txt", flags, monkeypatch)
    assert task.model == expected
    batch = np.asarray(task.batch_fn(np.array([0, 1])))
    encoded = task.vocabulary.encode(TEXT if "bytes" not in flags else TEXT.encode())
    chex.assert_trees_all_equal(
        batch, np.array([encoded[: task.model.num_dims], encoded[1:][: task.model.num_dims]])
    )


def task_of(data, flags, monkeypatch):
    """What a command would train."""
    found = []

    def stop(settings, task, folder):
        found.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(_train, "_fit", stop)
    with pytest.raises(SystemExit):
        main(["train", str(data), str(data.with_name("out")), *map(str, flags)])
    return found[0]


@pytest.mark.usefixtures("distrax_broadcasting")
def test_data_of_another_kind_than_the_bundle_are_refused(place, tmp_path, capsys):
    bundle = place / "text.safetensors"
    (tmp_path / "odd.txt").write_text("To be\nor n\u00f6t")
    error = refused(capsys, "score", bundle, tmp_path / "odd.txt")
    assert "odd.txt: character 'ö' in line 2, column 5 is none of the 18 that the model" in error
    error = refused(capsys, "sample", bundle, "--prompt", "Zo")
    assert "prompt: character 'Z' in line 1, column 1" in error
    (tmp_path / "latin.txt").write_bytes(b"to\nb\xe9")
    error = refused(capsys, "score", bundle, tmp_path / "latin.txt")
    assert "latin.txt: not UTF-8 (unexpected end of data) in line 2" in error
    bundle = place / "images.safetensors"
    np.save(tmp_path / "wide.npy", np.zeros((2, 3, 5)))
    error = refused(capsys, "score", bundle, tmp_path / "wide.npy")
    assert "wide.npy: images are 3x5 pixels, the model's are 3x4" in error
    error = refused(capsys, "score", bundle, tmp_path / "odd.txt")
    assert "odd.txt: neither PNG files, nor a .npy array, nor an IDX file" in error
    assert "images need an out" in refused(capsys, "sample", bundle)
    assert "does not say what model" in refused(capsys, "score", weights_only(tmp_path), "any")
    vae = jg.VAE(12, 4, 1, (2,))
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(vae.init, jax.random.key(0), np.zeros((1, 12), int)),
    )
    jg.save(tmp_path / "vae", vae, params, vocabulary=jg.data.GrayLevels(SHAPE, 4))
    for command in (
        ["fill", tmp_path / "vae", place / "pngs", tmp_path / "a.png"],
        ["sample", tmp_path / "vae", tmp_path / "a.png", "--temperature", 0.5],
    ):
        error = refused(capsys, *command)
        assert "vae: " in error
        assert "needs an autoregressive model, the file has VAE" in error
    characters = jg.data.CharacterVocabulary("abcd")
    jg.save(tmp_path / "vae", vae, params, vocabulary=characters)
    error = refused(capsys, "score", tmp_path / "vae", place / "play.txt")
    assert "text needs an autoregressive model, the file has VAE" in error
    jg.save(tmp_path / "vae", vae, params)
    assert "does not say what its symbols" in refused(capsys, "sample", tmp_path / "vae")


def weights_only(folder):
    jg.training.save_weights(folder / "weights", {"a": np.zeros(1)})
    return folder / "weights"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-steps", 0], "num_steps must be at least 1, got 0"),
        (["--valid-fraction", 1.0], "valid_fraction must be"),
        (["--model", "made"], "play.txt is of text, whose models are transformer and recurrence"),
        (["--model", "recurrence", "--dropout-rate", 0.1], "model recurrence has no dropout_rate"),
        (["--width", 5], "width of a transformer must be even, got 5"),
        (["--patience", 2, "--valid-fraction", 0.0], "it needs a valid_fraction above 0"),
        (["--num-latents", 2], "num_latents is of model vae alone"),
    ],
)
def test_flags_out_of_range_are_refused_before_anything_is_done(place, flags, message, capsys):
    assert message in refused(capsys, "train", place / "play.txt", place / "out", *flags)


def test_help_comes_at_once_and_loads_no_jax():
    code = (
        "import sys, time\nfrom jaxgen._cli._main import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "print('jax' in sys.modules, time.process_time(), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    has_jax, seconds = result.stderr.split()
    assert "--gray-levels" in result.stdout
    assert has_jax == "False"
    assert float(seconds) < 1.0


def test_the_module_runs_and_ends_with_the_code_of_an_error(tmp_path):
    command = [sys.executable, "-m", "jaxgen", "score", tmp_path / "none", tmp_path]
    root = pathlib.Path(jg.__file__).parent.parent
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert result.returncode == 2
    assert "No such file" in result.stderr
