"""Files that the command line refuses, each by its name and with what is wrong."""

import numpy as np
from cli.test_command_line import refused, save_pngs


def bad_files(folder):
    """Files that are not what they should be, and what is said of each."""
    save_pngs(folder / "sizes", [np.zeros((3, 4), "u1"), np.zeros((3, 5), "u1")])
    save_pngs(folder / "color", [np.zeros((2, 2, 3), "u1") + np.array([0, 0, 1], "u1")])
    save_pngs(folder / "deep", [np.zeros((3, 4), "u1"), np.zeros((3, 4), "u2")])
    clear = np.zeros((2, 2, 4), "u1")
    save_pngs(folder / "clear", [clear])
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    np.save(folder / "flat.npy", np.zeros((3, 4)))
    np.save(folder / "bright.npy", np.full((3, 2, 2), 1.5))
    np.save(folder / "objects.npy", np.array([{}, 1]))
    np.save(folder / "one.npy", np.zeros((1, 2, 2)))
    (folder / "no.npy").write_bytes(b"text")
    (folder / "short.idx").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 9]))
    (folder / "nothing.txt").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"a\nb\xe9")
    return {
        "sizes": "01.png: image is 3x5 pixels, 00.png is 3x4; all must be of one size",
        "color": "00.png: image is in color; convert it to gray",
        "deep": "01.png: image has 2 bytes a pixel, 00.png 1",
        "clear": "00.png: image is transparent in places",
        "empty": "empty: the folder holds no PNG file",
        "broken": "a.png: unreadable PNG",
        "flat.npy": "flat.npy: images must be [N, H, W], got shape [3, 4]",
        "bright.npy": "bright.npy: images must hold intensities in [0, 1], got [1.5, 1.5]",
        "objects.npy": "objects.npy: unreadable .npy array: Object arrays cannot be loaded",
        "one.npy": "one.npy: 1 images are too few to hold out any",
        "no.npy": "no.npy: unreadable .npy array",
        "short.idx": "short.idx: file ends inside the sizes of its 3 dimensions",
        "nothing.txt": "nothing.txt: file is empty",
        "latin.txt": "latin.txt: not UTF-8",
        "missing": "missing: there is no such file or folder",
        "missing.png": "missing.png: there is no such file or folder",
    }


def test_files_that_are_not_what_they_should_be_are_named(tmp_path, capsys):
    for name, message in bad_files(tmp_path).items():
        error = refused(capsys, "train", tmp_path / name, tmp_path / "out")
        assert error.startswith("error: "), error
        assert message in error.splitlines()[0], error
    assert not (tmp_path / "out").exists()
