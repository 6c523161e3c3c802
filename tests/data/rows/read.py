#!/usr/bin/env python3
"""Writes expected.json: the prompts of the commands in commands.txt, from the rows as Python reads them.

Needs openpyxl and pyarrow. Numbers of JSON stay as they are written.
"""
import csv
import json
import pathlib

import openpyxl
import pyarrow.parquet

HERE = pathlib.Path(__file__).resolve().parent


def lines(name):
    return [json.loads(line, parse_float=str) for line in (HERE / name).read_text("utf-8").splitlines()]


def loaded(name):
    return json.loads((HERE / name).read_text("utf-8"), parse_float=str)


def table(name, header=True, **how):
    with open(HERE / name, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, **how))
    return [dict(zip(rows[0], row)) for row in rows[1:]] if header else rows


def sheet(name):
    names, *rows = openpyxl.load_workbook(HERE / name).active.values
    return [dict(zip(names, row)) for row in rows]


def same(row):
    paid = {True: "true", False: "false"}.get(row["paid"], row["paid"])
    return f"{row['id']} {row['text']} {row['stars']} {row['score']} {paid}"


def issue(row):
    labels = "".join(f" #{label['name']}" for label in row["labels"])
    body = "-" if row["body"] is None else row["body"]
    return f"{row['id']} {row['title']} by {row['user']['login']}{labels} {body}"


def place(row):
    properties, at = row["properties"], row["geometry"]["coordinates"]
    return f"{properties['name']} {properties['height']} [{', '.join(at)}]"


def oriented(row):
    return row["instruction"] + "".join(f" {i['input']}" for i in row["instances"] if i["input"])


def last(row):
    return row["body"]["messages"][-1]["content"]


EXPECTED = {
    "gsm8k.jsonl": ["Q: " + row["question"] for row in lines("gsm8k.jsonl")],
    "humaneval.jsonl": [row["prompt"] for row in lines("humaneval.jsonl")],
    "bbh_date.json": [row["input"] for row in loaded("bbh_date.json")["examples"]],
    "bbh_penguins.json": [f"{row['input']} ({row['target']})" for row in loaded("bbh_penguins.json")["examples"]],
    "self_instruct.jsonl": [f"{row['instruction']} {row['instances'][0]['input']}" for row in lines("self_instruct.jsonl")],
    "user_oriented.jsonl": [oriented(row) for row in lines("user_oriented.jsonl")],
    "mt_bench.jsonl": [f"{row['turns'][0]}|{row['turns'][-1]}" for row in lines("mt_bench.jsonl")],
    "vicuna_bench.jsonl": [json.dumps(row["turns"]) for row in lines("vicuna_bench.jsonl")],
    "sharegpt.json": [f"{row['id']}: {row['conversations'][0]['value']}" for row in loaded("sharegpt.json")],
    "penguins.csv": [f"{row['species']} of {row['island']}: {row['bill_length_mm']}" for row in table("penguins.csv")],
    "penguins_raw.csv": [f"{row['Individual ID']}: {row['Culmen Length (mm)']} {row['Comments']}"
                         for row in table("penguins_raw.csv")],
    "country_codes.csv": [f"{row['official_name_en']} {row['CLDR display name']} {row['UNTERM Arabic Formal']} "
                          f"{row['Sub-region Code']}" for row in table("country_codes.csv")],
    "alpaca.json": [row["instruction"] + (" " + row["input"] if row["input"] else "") for row in loaded("alpaca.json")],
    "survey.csv": [f"{row['How satisfied are you with our support? (1-5)']}: {row['What did you like?']}"
                   for row in table("survey.csv")],
    "pandas_index.csv": [f"{row['stars']}: {row['review']}" for row in table("pandas_index.csv")],
    "places.geojson": [place(row) for row in loaded("places.geojson")["features"]],
    "openai_batch.jsonl": [last(row) for row in lines("openai_batch.jsonl")],
    "no_header.csv": [f"{row[0]} {row[1]}" for row in table("no_header.csv", header=False)],
    "issues.json": [issue(row) for row in loaded("issues.json")],
    "movies.json": [f"{row['Title']} {row['Rating']}" for row in loaded("movies.json")],
    "notes.md": [(HERE / "notes.md").read_text("utf-8")],
    "semicolon.csv": [f"{row['text']} {row['n']}" for row in table("semicolon.csv", delimiter=";")],
    "lesson.ipynb": ["".join(cell["source"]) for cell in loaded("lesson.ipynb")["cells"]],
    "judge_prompts.jsonl": [f"{row['prompt_template'].upper()} {row['output_format']}" for row in lines("judge_prompts.jsonl")],
    "same.jsonl": [same(row) for row in lines("same.jsonl")],
    "same.csv": [same(row) for row in table("same.csv")],
    "same.xlsx": [same(row) for row in sheet("same.xlsx")],
    "same.parquet": [same(row) for row in pyarrow.parquet.read_table(HERE / "same.parquet").to_pylist()],
}

text = json.dumps(EXPECTED, indent=1, ensure_ascii=False) + "\n"
(HERE / "expected.json").write_text(text, "utf-8")
