"""The afternoon of docs/own_files.md, lived: every command in order, in a folder of its own.

Run as a program, this writes what the commands printed, and the pictures, into the page.
"""

import contextlib
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import chex
import jax
import pytest
import tyro

import jaxgen as jg
from jaxgen._cli._main import _WHERE, _Command, main

PAGE = pathlib.Path(jg.__file__).parent.parent / "docs" / "own_files.md"
BLOCK = re.compile(r"```(console|py)\n(.*?)```", re.DOTALL)
PICTURES = ("drawn.png", "filled.png")


def printed(command):
    """What a shell would show of a command; jaxgen's own run here, which saves its imports."""
    first, *rest = command.split(" | ", 1)
    arguments = shlex.split(first)
    if arguments[:3] != ["python", "-m", "jaxgen"]:
        return subprocess.run(
            command, shell=True, capture_output=True, text=True, check=True
        ).stdout
    buffer = io.BytesIO()
    out, errors = io.TextIOWrapper(buffer, "utf-8", write_through=True), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main(arguments[3:])
        except SystemExit:
            print(errors.getvalue().splitlines()[0])
    text = buffer.getvalue().decode()
    for shell in rest:
        result = subprocess.run(
            shell, shell=True, input=text, capture_output=True, text=True, check=True
        )
        text = result.stdout
    return text


def lived(page):
    """The page with the output that its commands have now, and the names that its code left."""
    names = {}

    def run(match):
        kind, content = match.groups()
        if kind == "py":
            exec(compile(content, "own_files.md", "exec"), names)
            return match.group()
        lines = []
        for line in content.splitlines():
            if line.startswith("$ "):
                lines += [line, *printed(line[2:]).splitlines()]
        return "```console\n" + "\n".join(lines) + "\n```"

    return BLOCK.sub(run, page), names


def masked(page):
    """A page without what differs from machine to machine: numbers, and blanks beside them."""
    return re.sub(r"\s*\d[\d.,]*", " N", page).split("\n")


COMMANDS = [
    shlex.split(line.removeprefix("$ ").partition(" | ")[0])
    for kind, content in BLOCK.findall(PAGE.read_text())
    for line in content.splitlines()
    if kind == "console" and line.startswith("$ python")
]


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_of_the_page_is_one(command):
    assert command[:3] == ["python", "-m", "jaxgen"]
    assert type(tyro.cli(_Command, args=command[3:])) in _WHERE


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_page_is_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    found, names = lived(page)
    assert masked(found) == masked(page)
    first = next(line for line in found.splitlines() if line.startswith("0000.png"))
    chex.assert_trees_all_close(float(first.split()[1]), names["nats"][0], atol=1e-3, rtol=1e-7)
    drawn = pathlib.Path("drawn.txt").read_text()
    assert drawn.startswith("Return the sum")
    assert len(drawn) == len("Return the sum") + 200
    text = re.search(r"manual.safetensors: .* ([\d.]+) bits\) per char", found.replace("(", " "))
    assert 1.5 < float(text[1]) < 4.0  # and a character of another's choice would take 6
    scans = re.search(r"scans.safetensors: .* ([\d.]+) bits\) per pixel", found.replace("(", " "))
    assert 1.5 < float(scans[1]) < 2.3  # independent pixels take 2.43
    assert all(pathlib.Path(name).stat().st_size > 1000 for name in PICTURES)


if __name__ == "__main__":
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    jax.config.update("jax_enable_compilation_cache", False)
    text, _ = lived(PAGE.read_text())
    PAGE.write_text(text)
    for name in PICTURES:
        shutil.copy(name, PAGE.parent / "figures" / f"own_files_{name}")
    shutil.rmtree(folder)
    sys.exit(0)
