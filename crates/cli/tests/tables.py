#!/usr/bin/env python3
"""Rows in, rows out: the same awkward rows in every form of input, through `run` and `export` into every form
of table, and read back by the programs that people open them with. Every cell must be what it was.

    tables.py PATH/TO/batchwright
"""

import datetime
import gzip
import http.server
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import openpyxl
import pandas
import pyarrow
import pyarrow.parquet
import zstandard
from openpyxl.cell import WriteOnlyCell

PROGRAM = Path(sys.argv[1]).resolve()
ROWS = 300
COLUMNS = ["id", "text", "code", "empty", "n", "x", "flag", "day"]
# A cell of a worksheet holds no more.
MOST_UNITS = 32_767

AWKWARD = [
    'say "hi", twice: ""', '"', '""', "'", "'=1", "a,b;c|d\te", "two\nlines", "Windows\r\nlines", "old\rMac",
    "\nfirst", "last\n", "  blanks  ", " ", "", "tab\t", "back\\slash \\n \\u0041", "{{id}} {{none}} {{", "}}",
    "😀👩‍🔬🇪🇺", "e\u0301 é ﬁ Å", "مرحبا بالعالم", "שלום (עולם)", "abc\u202edef\u202c", "日本語、中国", "\u00a0",
    "\u2028line\u2029", "\ufeffmark", "\u200b", "=cmd()", "=1+1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1",
    "-5", "+5", "-0.25", "007", "1e5", "12345678901234567890", "0x1F", "1,5", "true", "FALSE", "null", "NULL", "NaN",
    "N/A", "#N/A", "None", "2024-05-01", "1/2", "<b>&amp;</b>", "<![CDATA[x]]>", "_x0041_", "_x000D_", "\x1b[2J\x1b]0;t\x07",
    "\x01\x02\x1f\x7f\x9b", "%s %d ${HOME} $(id) `id`", "'; DROP TABLE results; --", "https://example.org/?a=b#c",
    "javascript:alert(1)", "../../etc/passwd", "#comment", "sep=;", "x" * 5000, "ü" * 40_000, "a" * 1_000_000,
]

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "score": {"type": "number"},
        "count": {"type": "integer"},
        "good": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                  "additionalProperties": False},
    },
    "required": ["label", "score", "count", "good", "tags", "place"],
    "additionalProperties": False,
}


def rows():
    """The rows, typed."""
    for i in range(ROWS):
        text = AWKWARD[i % len(AWKWARD)]
        # Not each of them many times: one of a megabyte is enough.
        if i >= len(AWKWARD) and len(text) > 5000:
            text = f"row {i} \"of\" many,\n{text[:50]}"
        yield {"id": f"r-{i:03}", "text": text, "code": f"{i:05}", "empty": "", "n": i * 7 - 50, "x": i + 0.25,
               "flag": i % 3 == 0, "day": datetime.date(2024, 1, 1) + datetime.timedelta(days=i)}


def as_text(value):
    """A cell as text, which is what all forms have in common."""
    if value is None or value is pandas.NA or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat()
    return str(value)


# --- inputs: each writes the rows and returns what is expected of them, as text


def expected(typed, **other):
    return [{name: as_text(other.get(name, lambda row, name=name: row[name])(row)) for name in COLUMNS} for row in typed]


def delimited(by):
    def write(path):
        typed = list(rows())
        lines = [COLUMNS] + [[as_text(row[name]) for name in COLUMNS] for row in typed]
        quoted = lambda cell: '"' + cell.replace('"', '""') + '"'
        text = "".join(by.join(map(quoted, line)) + "\r\n" for line in lines)
        path.write_bytes(text.encode())
        return expected(typed)
    return write


def json_lines(path):
    typed = list(rows())
    path.write_text("".join(json.dumps(row, default=as_text) + "\n" for row in typed), encoding="utf-8")
    return expected(typed)


def parquet(path):
    typed = list(rows())
    pandas.DataFrame(typed).to_parquet(path, index=False)
    return expected(typed)


def sqlite(path):
    typed = list(rows())
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE rows (id TEXT, text TEXT, code TEXT, empty TEXT, n INTEGER, x REAL, flag INTEGER, day TEXT)")
        values = [[row[name] for name in COLUMNS[:-1]] + [as_text(row["day"])] for row in typed]
        database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    database.close()
    return expected(typed, flag=lambda row: int(row["flag"]))


def units(text):
    return len(text.encode("utf-16-le")) // 2


def escaped(text):
    """A text as a worksheet has it: what XML cannot hold, and what looks like its escape, is escaped."""
    text = re.sub(r"_(?=x[0-9A-Fa-f]{4}_)", "_x005F_", text)
    # openpyxl does not say of blanks at either end that they belong to the text.
    return re.sub(r"[\x00-\x08\x0b-\x1f]|\A[ \t\n]|[ \t\n]\Z", lambda found: f"_x{ord(found[0]):04X}_", text)


def unescaped(text):
    return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), text)


def xlsx(path):
    typed = list(rows())
    for row in typed:
        row["text"] = row["text"] if units(row["text"]) <= MOST_UNITS else row["text"][:32_000]
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    sheet.append(COLUMNS)
    for row in typed:
        cells = []
        for name in COLUMNS:
            value = row[name]
            cell = WriteOnlyCell(sheet, escaped(value) if isinstance(value, str) else value)
            if isinstance(value, str):
                cell.data_type = "s"
            cells.append(cell)
        sheet.append(cells)
    book.save(path)
    return expected(typed)


def compressed(write, compress):
    def packed(path):
        plain = path.with_suffix("")
        found = write(plain)
        path.write_bytes(compress(plain.read_bytes()))
        plain.unlink()
        return found
    return packed


INPUTS = {
    "in.csv": delimited(","),
    "in.tsv": delimited("\t"),
    "in.jsonl": json_lines,
    "in.parquet": parquet,
    "in.xlsx": xlsx,
    "in.csv.gz": compressed(delimited(","), gzip.compress),
    "in.jsonl.zst": compressed(json_lines, zstandard.compress),
}

# --- tables: each reads one back, and says how a text is shown in it


def same(text):
    return text


def without_formula(text):
    """As `export` writes a text into CSV."""
    number = re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text.strip())
    return "'" + text if text.strip()[:1] and text.strip()[0] in "=+-@＝＋－＠" and not number else text


def read_delimited(by):
    def read(path):
        table = pandas.read_csv(path, sep=by, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return list(table.columns), table.values.tolist()
    return read


def json_of(path):
    """The objects of JSON lines, which end at line feeds alone."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_json_lines(path):
    lines = json_of(path)
    return list(lines[0]), [list(line.values()) for line in lines]


def read_parquet(path):
    table = pyarrow.parquet.read_table(path)
    assert table.schema.field("success").type == pyarrow.bool_(), table.schema
    assert table.schema.field("input_tokens").type == pyarrow.int64(), table.schema
    assert table.schema.field("score").type == pyarrow.float64(), table.schema
    again = pandas.read_parquet(path)
    assert len(again) == table.num_rows
    return table.column_names, [list(row.values()) for row in table.to_pylist()]


def read_xlsx(path):
    book = openpyxl.load_workbook(path, read_only=True)
    plain = lambda cell: unescaped(cell) if isinstance(cell, str) else cell
    lines = [[plain(cell) for cell in line] for line in book["results"].iter_rows(values_only=True)]
    book.close()
    formulas = openpyxl.load_workbook(path)["results"]
    assert not any(cell.data_type == "f" for line in formulas.iter_rows() for cell in line), "a formula"
    return lines[0], lines[1:]


def read_sqlite(path):
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT * FROM results")
        names = [column[0] for column in found.description]
        lines = [list(line) for line in found]
        types = dict(line[1:3] for line in database.execute("PRAGMA table_info(results)"))
    database.close()
    assert (types["success"], types["score"], types["attempts"]) == ("BOOLEAN", "REAL", "INTEGER"), types
    return names, lines


TABLES = {
    "out.csv": (read_delimited(","), without_formula, []),
    "out.tsv": (read_delimited("\t"), without_formula, ["--bom"]),
    "raw.csv": (read_delimited(","), same, ["--raw"]),
    "out.jsonl": (read_json_lines, same, []),
    "out.parquet": (read_parquet, same, []),
    "out.xlsx": (read_xlsx, same, []),
}


class Simulator:
    def __enter__(self):
        self.process = subprocess.Popen([PROGRAM, "simulate", "--port", "0"], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self.process.stdout:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                self.address = found[0] + "/v1"
                return self
        raise SystemExit("the simulated provider did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def run(*words, exit_code=0):
    ended = subprocess.run([PROGRAM, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode != exit_code:
        raise SystemExit(f"{words}: exit code {ended.returncode}\n{ended.stderr}")
    return ended.stderr


def normal(column, cell):
    """A cell of a column that is no text, as it is compared."""
    if cell is None or cell == "":
        return ""
    if column in ("success", "good"):
        return str(cell).lower() in ("true", "1")
    if column in ("tags", "place", "usage"):
        return json.loads(cell) if isinstance(cell, str) else cell
    if column in ("score", "count", "input_tokens", "output_tokens", "attempts", "latency_ms"):
        return float(cell)
    return str(cell)


def fits(found, text):
    """Whether a cell of a worksheet is that text, or its beginning with a word on the rest."""
    if units(text) <= MOST_UNITS:
        return found == text
    cut = re.search(r"… \[cut here: (\d+) characters, the whole is in results\.jsonl\]$", found)
    return bool(cut) and int(cut[1]) == len(text) and text.startswith(found[: cut.start()]) \
        and MOST_UNITS - 2 <= units(found) <= MOST_UNITS


def check_table(name, source, wanted, results):
    read, shown, _ = TABLES[name]
    columns, lines = read(Path(name))
    start = COLUMNS + ["label", "score", "count", "good", "tags", "place", "result_text", "success", "error_kind",
                       "error_status", "error_message"]
    assert columns[: len(start)] == start, f"{source} -> {name}: {columns}"
    assert len(lines) == len(wanted), f"{source} -> {name}: {len(lines)} rows"
    cells = 0
    for line, row in zip(lines, wanted):
        cell = dict(zip(columns, line))
        result = results[row["id"]]
        if name in ["out.parquet", "out.xlsx"]:
            # Rows are read as JSON, in which dates are texts.
            assert isinstance(cell["day"], str), f"{source} -> {name}: {cell['day']!r}"
        for column in COLUMNS:
            found, text = as_text(cell[column]), shown(row[column])
            if name == "out.sqlite" and column == "flag" and isinstance(result["input"]["flag"], bool):
                # SQLite has no booleans.
                text = {"true": "1", "false": "0"}[text]
            good = fits(found, text) if name == "out.xlsx" else found == text
            assert good, f"{source} -> {name}, {row['id']}, {column}: {found[:200]!r} is not {text[:200]!r}"
            cells += 1
        answer = json.loads(result["text"])
        facts = {**answer, **result["usage"], **{key: result[key] for key in ("success", "attempts", "latency_ms", "model")}}
        for column, value in facts.items():
            found = normal(column, cell[column])
            value = shown(value) if isinstance(value, str) else value
            assert found == normal(column, value), f"{source} -> {name}, {row['id']}, {column}: {found!r} is not {value!r}"
            cells += 1
    return cells


def sent_by(*words):
    """The messages of the requests that a command sends, in their order."""
    sent = []

    class Listener(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, said):
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.reply({"object": "list", "data": [{"id": "sim-1", "object": "model"}]})

        def do_POST(self):
            sent.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"])
            self.reply({"id": "1", "object": "chat.completion", "model": "sim-1", "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "7"}}]})

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    run(*words, "--base-url", f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    return sent


def check_conversations(address):
    """Conversations as datasets for training have them: each message has the fields of all others, with nulls."""
    messages = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a prime.", "name": "ann"}],
        [{"role": "user", "content": "Name a city."}],
    ]
    for column in "messages", "prompt":
        table = pyarrow.Table.from_pylist([{"id": str(nth), column: found, "n": nth} for nth, found in enumerate(messages)])
        assert "name" in table[column][1].as_py()[0]
        pyarrow.parquet.write_table(table, "chat.parquet")
        run("run", "chat.parquet", "--provider", "local", "--base-url", address, "--model", "sim-1", "-o", "chat.jsonl")
        sent = sent_by("run", "chat.parquet", "-j", "1", "--model", "sim-1", "-o", "shown.jsonl")
        assert sent == messages, sent
        Path("shown.jsonl").unlink()
        Path("chat.jsonl").unlink()
    pyarrow.parquet.write_table(table, "chat.parquet", compression="brotli")
    said = run("run", "chat.parquet", "--base-url", address, "--model", "sim-1", exit_code=2)
    assert "compressed with Brotli; expected Snappy" in said, said
    Path("chat.parquet").unlink()
    print("conversations of Parquet files are sent as they are")


def check_formulas(address):
    """A formula that no program has calculated is a null, as an error is, and the message names its cell."""
    book = openpyxl.Workbook()
    book.active.append(["id", "text"])
    for row in ([1, "one"], [2, "=A2&\"x\""], [3, "=A3&\"x\""], [4, "#N/A"]):
        book.active.append(row)
    book.active["B5"].data_type = "e"
    book.save("formulas.xlsx")
    asked = ["run", "formulas.xlsx", "--template", "{{text}}", "--base-url", address, "--model", "sim-1"]
    said = run(*asked, "-o", "formulas.jsonl", exit_code=2)
    assert "2 cells of the sheet \"Sheet\" have a formula without a stored value" in said, said
    assert "1 cells of the sheet \"Sheet\" have an error in place of a value" in said and "B5 (#N/A)" in said, said
    assert "the first one is B3" in said and not Path("formulas.jsonl").exists(), said
    run(*asked, "-o", "formulas.jsonl", "--bad-rows", "skip", exit_code=3)
    assert sorted(line["success"] for line in json_of(Path("formulas.jsonl"))) == [False, False, False, True]
    for done in ["formulas.xlsx", "formulas.jsonl"]:
        Path(done).unlink()


def main():
    cells = 0
    Path("schema.json").write_text(json.dumps(SCHEMA))
    with Simulator() as simulator:
        asked = ["--provider", "local", "--base-url", simulator.address, "--model", "sim-1", "--json-schema", "schema.json",
                 "--template", "{{id}}", "-j", "8", "--quiet"]
        for name, write in INPUTS.items():
            wanted = write(Path(name))
            run("run", name, *asked, "--keep", "all", "--ordered", "-o", "results.jsonl")
            results = {line["id"]: line for line in json_of(Path("results.jsonl"))}
            assert len(results) == ROWS and all(line["success"] for line in results.values()), name
            for table, (_, _, flags) in TABLES.items():
                run("export", "results.jsonl", "-o", table, "--json-schema", "schema.json", "--columns", "all", "--overwrite", *flags)
                cells += check_table(table, name, wanted, results)
            print(f"{name}: {ROWS} rows, the same in {', '.join(TABLES)}")
            for done in [name, "results.jsonl"]:
                Path(done).unlink()
        check_conversations(simulator.address)
        check_formulas(simulator.address)
        Path("nul.csv").write_bytes(b"id,text\n1,a\0b\n")
        said = run("run", "nul.csv", *asked, "-o", "nul.jsonl", exit_code=2)
        assert "NUL" in said and not Path("nul.jsonl").exists(), said
    print(f"{cells} cells, each equal")


with tempfile.TemporaryDirectory() as folder:
    os.environ["BATCHWRIGHT_HOME"] = str(Path(folder) / "home")
    os.chdir(folder)
    main()
