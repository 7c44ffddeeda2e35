"""Files are found, downloaded, resumed and checked; the server is on loopback."""

import gzip
import hashlib
import http.server
import io
import threading
import urllib.error
import urllib.request
from email.message import Message
from urllib.response import addinfourl

import numpy as np
import pytest

from jaxgen.data import _download as download
from jaxgen.data import _files as files
from jaxgen.data._content import KnownFile
from jaxgen.data._errors import DataFormatError, DataNotFoundError

CONTENT = np.random.default_rng(1).bytes(200_000)
CUT = 70_000

# Like the default opener, but one that also opens http, and through no proxy.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`, as `server.behavior` says, and notes the ranges asked for."""

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        if server.behavior == "missing" or self.path == "/gone":
            self.send_error(404)
            return
        start = 0
        if asked and server.behavior != "no ranges":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            first = 0 if server.behavior == "wrong range" else start
            last, total = len(server.content) - 1, len(server.content)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.end_headers()
        self.wfile.write(body[:CUT] if server.behavior == "cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.behavior, server.ranges = CONTENT, "", []
        server.url = f"http://127.0.0.1:{server.server_port}/a.bin"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXGEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxgen"


def known(*urls, content=CONTENT, name="a.bin"):
    return KnownFile("set", name, hashlib.sha256(content).hexdigest(), len(content), urls)


def content_of(file, opener=HTTP):
    (path,) = files.find([file], opener)
    return files.load(file, path, lambda content, _: content)


def parts(cache):
    return list(cache.rglob("*.part"))


def interrupt(server, cache):
    """Leave a partial file behind, as a lost connection does."""
    server.behavior = "cut"
    with pytest.raises(DataNotFoundError, match=f"{CUT} of {len(CONTENT)} bytes; run again"):
        files.find([known(server.url)], HTTP)
    (part,) = parts(cache)
    assert part.read_bytes() == CONTENT[:CUT]
    assert not (cache / "set" / "a.bin").exists()
    server.behavior = ""
    return part


@pytest.mark.parametrize("place", ["data/set/a.bin", "data/a.bin", "data/set/a.bin.gz"])
@pytest.mark.parametrize("root", ["JAXGEN_DATA", "cache"])
def test_a_file_is_found_where_it_was_placed(tmp_path, monkeypatch, cache, place, root):
    path = tmp_path / place if root == "JAXGEN_DATA" else cache / place.removeprefix("data/")
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(CONTENT) if path.suffix == ".gz" else CONTENT)
    if root == "JAXGEN_DATA":
        monkeypatch.setenv("JAXGEN_DATA", str(tmp_path / "data"))
    assert files.find([known()]) == [path]
    assert content_of(known()) == CONTENT


def test_files_under_jaxgen_data_go_before_the_cache(tmp_path, monkeypatch, cache):
    for folder in (tmp_path / "data", cache):
        folder.mkdir(parents=True)
        (folder / "a.bin").write_bytes(CONTENT)
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path / "data"))
    assert files.find([known()]) == [tmp_path / "data" / "a.bin"]


def test_the_home_folder_has_the_cache_where_xdg_names_none(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataNotFoundError, match=f"{tmp_path}/.cache/jaxgen/set"):
        files.find([known()])


def test_a_download_lands_in_the_cache_whole_with_its_progress_on_stderr(server, cache, capsys):
    assert content_of(known(server.url)) == CONTENT
    assert [path.name for path in (cache / "set").iterdir()] == ["a.bin"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a.bin" in printed.err
    assert content_of(known(server.url)) == CONTENT
    assert server.ranges == [None], "a second call downloaded again"


def test_a_gzipped_download_keeps_its_form_and_is_checked_by_its_content(server, cache):
    server.content = gzip.compress(CONTENT)
    assert content_of(known(server.url)) == CONTENT
    assert (cache / "set" / "a.bin.gz").read_bytes() == server.content


def test_an_interrupted_download_resumes_where_it_ended(server, cache):
    interrupt(server, cache)
    assert content_of(known(server.url)) == CONTENT
    assert server.ranges == [None, f"bytes={CUT}-"]
    assert parts(cache) == []


def test_a_server_that_ignores_ranges_restarts_cleanly(server, cache):
    interrupt(server, cache)
    server.behavior = "no ranges"
    assert content_of(known(server.url)) == CONTENT
    assert server.ranges == [None, f"bytes={CUT}-"]


def test_a_partial_file_that_was_whole_already_is_taken(server, cache):
    interrupt(server, cache).write_bytes(CONTENT)
    assert content_of(known(server.url)) == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("junk", [b"x" * CUT, CONTENT + b"more"], ids=["changed", "too long"])
def test_a_corrupt_partial_file_is_discarded_with_an_error_and_the_next_try_is_whole(
    server, cache, junk
):
    interrupt(server, cache).write_bytes(junk)
    with pytest.raises(DataNotFoundError, match=r"has sha256 .* expected .* discarded, the next"):
        files.find([known(server.url)], HTTP)
    assert parts(cache) == []
    assert content_of(known(server.url)) == CONTENT


def test_an_answer_for_another_range_discards_the_partial_file(server, cache):
    interrupt(server, cache)
    server.behavior = "wrong range"
    with pytest.raises(DataNotFoundError, match=f"asked for bytes {CUT}-, got 'bytes 0-"):
        files.find([known(server.url)], HTTP)
    assert parts(cache) == []


@pytest.mark.parametrize("served", [b"other", gzip.compress(CONTENT)[:-30]], ids=["other", "cut"])
def test_a_download_with_a_wrong_checksum_never_gets_its_name(server, cache, served):
    server.content = served
    with pytest.raises(DataNotFoundError, match=r"discarded"):
        files.find([known(server.url)], HTTP)
    assert list((cache / "set").iterdir()) == []


@pytest.mark.parametrize("served", [bytes(5_000_000), gzip.compress(bytes(10_000_000))])
def test_a_server_that_sends_far_more_than_the_file_has_is_not_heard_out(
    server, cache, served, monkeypatch
):
    sizes = []
    copy = download._copy
    monkeypatch.setattr(download, "_copy", lambda *a: sizes.append(copy(*a)) or sizes[-1])
    server.content = served
    with pytest.raises(DataNotFoundError, match=r"discarded") as e:
        files.find([known(server.url)], HTTP)
    assert "sends far more than the file has" in str(e.value) or "more than the" in str(e.value)
    assert sizes[0] < len(CONTENT) + 100_000
    assert list((cache / "set").iterdir()) == []


def test_a_placed_file_that_is_far_too_large_is_not_read(cache):
    (cache / "set").mkdir(parents=True)
    with (cache / "set" / "a.bin").open("wb") as file:
        file.truncate(1 << 36)  # sparse
    with pytest.raises(DataFormatError, match=r"a\.bin: file goes on far beyond its 200000 bytes"):
        content_of(known())


def test_the_next_mirror_is_tried_and_resumes_its_own_part_alone(server, cache):
    interrupt(server, cache)
    server.ranges.clear()
    gone, other = (server.url.replace("a.bin", name) for name in ("gone", "other"))
    assert content_of(known(gone, other, server.url)) == CONTENT
    assert server.ranges == [None, None], "the part of one mirror was resumed from another"


def test_the_error_names_what_went_wrong_at_each_mirror(server):
    server.behavior = "missing"
    other = server.url.replace("a.bin", "other")
    with pytest.raises(DataNotFoundError) as e:
        files.find([known(server.url, other)], HTTP)
    for url in (server.url, other):
        assert f"{url}: HTTP Error 404: Not Found" in str(e.value)


def test_two_at_once_download_once(server, cache):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(content_of(known(server.url))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert len(server.ranges) == 1


def test_offline_one_error_says_everything(server, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path / "data"))
    (cache / "set").mkdir(parents=True)
    (cache / "set" / "b.bin").write_bytes(CONTENT)
    closed = "https://127.0.0.1:1"
    wanted = [known(f"{closed}/{name}", name=name) for name in ("a.bin", "b.bin", "c.bin")]
    with pytest.raises(FileNotFoundError) as e:
        files.find(wanted)
    message = str(e.value)
    assert isinstance(e.value, DataNotFoundError)
    assert message.startswith("cannot find or download a.bin, c.bin\n")
    for words in (
        *(str(root / "set") for root in (tmp_path / "data", cache)),
        f"{closed}/a.bin: <urlopen error",
        "Connection refused",
        "put into a folder DIR/set and set JAXGEN_DATA=DIR",
        f"c.bin from {closed}/c.bin",
    ):
        assert words in message
    assert "b.bin" not in message
    assert "not set" not in message
    monkeypatch.delenv("JAXGEN_DATA")
    with pytest.raises(DataNotFoundError, match=r"\(JAXGEN_DATA is not set\)"):
        files.find(wanted)


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    with pytest.raises(DataNotFoundError, match=r"cannot make the folder .*a-file/jaxgen/set"):
        files.find([known(server.url)], HTTP)
    assert server.ranges == []


@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "data"])
def test_only_https_is_opened(server, tmp_path, scheme):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    url = {"file": f"file://{tmp_path}/a.bin", "data": "data:,x"}.get(
        scheme, server.url.replace("http", scheme)
    )
    with pytest.raises(DataNotFoundError, match=f"unknown url type: {scheme}"):
        files.find([known(url)])
    assert server.ranges == []


def test_a_redirect_from_https_to_http_is_refused(server):
    class Redirect(urllib.request.BaseHandler):
        handler_order = 0  # before the real https handler

        def https_open(self, request):
            headers = Message()
            headers["Location"] = server.url
            response = addinfourl(io.BytesIO(), headers, request.full_url, 302)
            response.msg = "Found"
            return response

    opener = download._build_https_only()
    opener.add_handler(Redirect())
    with pytest.raises(urllib.error.URLError, match="unknown url type: http"):
        opener.open("https://127.0.0.1/a.bin")
    assert server.ranges == []


def test_a_placed_file_with_another_checksum_is_refused_after_its_parser_had_a_look(cache):
    cache.mkdir(parents=True)
    (cache / "a.bin").write_bytes(b"other")
    with pytest.raises(DataFormatError, match=r"a\.bin: content has sha256 .*, expected"):
        content_of(known())

    def parse(content, path):
        raise DataFormatError(path, "the parser knows better", 3)

    with pytest.raises(DataFormatError, match="the parser knows better, at byte 3"):
        files.load(known(), cache / "a.bin", parse)
