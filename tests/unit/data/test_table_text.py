"""Text tables: what a plain one gives, every guess, and every refusal; all data are invented."""

from __future__ import annotations

import gzip
import io
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.config import InputError
from timerxl.data.tables.text import (
    TextOptions,
    TextTable,
    decode_text,
    read_text_table,
    read_traces,
)

CASES = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "cases"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def read(tmp_path: Path, text: str, encoding: str = "utf-8", **options: Any) -> TextTable:
    return read_text_table(write(tmp_path / "t.csv", text, encoding), TextOptions(**options))


def case(*parts: str) -> Path:
    path = CASES.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"the shared case {'/'.join(parts)} is not on this machine")
    return path


# A plain table is read as pandas reads it.

PLAIN = [
    "timestamp,region,t,p\n2020-01-01 00:00,north,1.5,0\n2020-01-01 01:00,north,-2,0.25\n",
    "timestamp,region,t\n2020-01-01,a,1\n2020-01-02,a,NA\n2020-01-03,a,3\n",
    "timestamp,region,flag,big\n2020-01-01,a,True,9007199254740993\n2020-01-02,a,False,1\n",
    "timestamp,region,t\n2020-01-01,a,1e-3\n2020-01-02,a,-.5\n2020-01-03,a,inf\n2020-01-04,a,nan\n",
    'timestamp,region,"t, mean"\n2020-01-01,a,"1.25"\n2020-01-02,a,2\n',
    "timestamp,region,wind\r\n2020-01-01,a,N\r\n2020-01-02,a,null\r\n",
    "timestamp,region,t\n2020-01-01,a,1\n\n2020-01-02,a,2\n",
    "timestamp,region,t,x\n2020-01-01,a,1\n2020-01-02,a,2,4\n",
    "timestamp,region,x,x\n2020-01-01,a,1,2\n2020-01-02,a,2,3\n",
    "timestamp,region,wind\n2020-01-01,a,calm; later strong\n2020-01-02,a,weak; then calm\n",
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_table_is_what_pandas_reads(tmp_path: Path, text: str) -> None:
    table = read(tmp_path, text)
    pd.testing.assert_frame_equal(table.frame, pd.read_csv(io.StringIO(text)), check_exact=True)
    assert (table.header_line, table.first_line) == (1, 2)
    assert [note for note in table.notes if "two columns" not in note] == []


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.integers(-(2**62), 2**62)),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None)
def test_numbers_keep_every_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int]]
) -> None:
    times = pd.date_range("2020-01-01", periods=len(rows), freq="h")
    frame = pd.DataFrame(rows, columns=["x", "n"])
    frame.insert(0, "timestamp", times.astype(str))
    path = tmp_path_factory.mktemp("bits") / "t.csv"
    frame.to_csv(path, index=False)
    found, today = read_text_table(path).frame, pd.read_csv(path)
    pd.testing.assert_frame_equal(found, today, check_exact=True)
    assert found["x"].to_numpy().tobytes() == today["x"].to_numpy().tobytes()


def test_shared_plain_tables_are_what_pandas_reads() -> None:
    for parts in (
        ("era5land_csv", "era5land.csv"),
        ("sentinels_weather_csv", "weather.csv"),
        ("nasa_power", "joined_time.csv"),
        ("inches", "lcd_hourly_inches.csv"),
        ("weather_au", "weatherAUS.csv"),
    ):
        path = case(*parts)
        table = read_text_table(path)
        pd.testing.assert_frame_equal(table.frame, pd.read_csv(path), check_exact=True)
        assert table.notes == []


# Names of regions stay as they are written.


def test_names_of_regions_stay_text(tmp_path: Path) -> None:
    text = (
        "timestamp,region,t\n2020-01-01,007,1\n2020-01-01,1e5,2\n2020-01-01,NA,3\n2020-01-02,,4\n"
    )
    frame = read(tmp_path, text).frame
    assert frame["region"][:3].tolist() == ["007", "1e5", "NA"]
    assert frame["region"].isna().tolist() == [False, False, False, True]
    assert frame["t"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["station", "STATIONS_ID", "Estação", "Location", "id", "Site No"])
def test_columns_named_like_stations_stay_text(tmp_path: Path, name: str) -> None:
    frame = read(tmp_path, f"time,{name},t\n2020-01-01,0010,1\n2020-01-02,0020,2\n").frame
    assert frame[name].tolist() == ["0010", "0020"]


def test_beside_a_region_other_numbers_stay_numbers(tmp_path: Path) -> None:
    text = "time,region,code,name\n2020-01-01,01,7,8\n2020-01-02,01,9,10\n"
    frame = read(tmp_path, text).frame
    assert frame["region"].tolist() == ["01", "01"]
    assert frame["code"].dtype == frame["name"].dtype == np.int64
    path = tmp_path / "t.csv"
    asked = read_text_table(path, text_columns=["code"]).frame
    assert asked["code"].tolist() == ["7", "9"]
    assert asked["region"].tolist() == [1, 1]


# Encodings.


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("utf-8", "Zeit,Größe °C"),
        ("utf-8-sig", "Zeit,Größe °C"),
        ("utf-16", "Zeit,Größe °C"),
        ("utf-16-le", "Zeit,T °C"),
        ("utf-32", "Zeit,Größe"),
        ("cp1252", "time,SWDR (W/m²)"),
        ("latin-1", "Data,PRECIPITAÇÃO TOTAL (mm)"),
        ("latin-1", "Date,Température (°C)"),
        ("gb18030", "时间,降水量(毫米)"),
        ("gb18030", "time,气温"),
        ("cp932", "年月日時,降水量(mm)"),
        ("cp949", "일시,강수량(mm)"),
        ("big5", "時間,氣溫"),
        ("cp1251", "Местное время,Температура"),
        ("cp1250", "Data,Suma opadów"),
    ],
)
def test_encodings_are_told_by_the_text(tmp_path: Path, encoding: str, names: str) -> None:
    text = f"{names}\n" + "".join(f"2020-01-{d:02},{d}.5\n" for d in range(1, 29))
    table = read(tmp_path, text, encoding)
    assert table.frame.columns.tolist() == names.split(",")
    assert table.frame.iloc[:, 1].tolist() == [d + 0.5 for d in range(1, 29)]
    said = any("--encoding" in note for note in table.notes)
    assert said == (encoding not in ("utf-8", "utf-8-sig", "utf-16", "utf-32"))


def test_a_letter_late_in_the_file_decides_too(tmp_path: Path) -> None:
    rows = "".join(f"2020-01-01 00:{i % 60:02},{i},x\n" for i in range(3000))
    table = read(tmp_path, f"time,t,place\n{rows}2020-01-02 00:00,1,São Paulo\n", "latin-1")
    assert table.frame["place"].iloc[-1] == "São Paulo"


def test_a_given_encoding_is_taken_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "time,Łódź\n2020-01-01,1\n", "cp1250")
    table = read_text_table(path, TextOptions(encoding="cp1250"))
    assert table.frame.columns[1] == "Łódź"
    assert table.notes == []
    with pytest.raises(InputError, match=r"can't be read as utf-8: .*--encoding"):
        read_text_table(path, TextOptions(encoding="utf-8"))
    with pytest.raises(InputError, match="--encoding 'klingon' is unknown"):
        read_text_table(path, TextOptions(encoding="klingon"))


# Separators and decimal signs.


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_separators_are_seen_and_said(tmp_path: Path, separator: str, word: str) -> None:
    rows = [
        ("time", "t", "note, long"),
        ("2020-01-01 00:00", "1.5", "a"),
        ("2020-01-01 01:00", "2", "b"),
    ]
    table = read(tmp_path, "\n".join(separator.join(row) for row in rows) + "\n")
    assert table.frame.columns.tolist() == list(rows[0])
    assert table.frame["t"].tolist() == [1.5, 2.0]
    assert any(word in note and "--separator" in note for note in table.notes)


def test_runs_of_spaces_separate(tmp_path: Path) -> None:
    text = "  year mo  dy   t2m  prec\n  2020  1   1  -1.5   0.0\n  2020  1   2  12.0  10.5\n"
    frame = read(tmp_path, text).frame
    assert frame.to_dict("list") == {
        "year": [2020, 2020], "mo": [1, 1], "dy": [1, 2], "t2m": [-1.5, 12.0], "prec": [0.0, 10.5],
    }  # fmt: skip


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_read_and_said(tmp_path: Path, separator: str) -> None:
    text = "time;t;rain;n;gap\n2020-01-01 00:00;-0,97;,2;1;\n2020-01-01 01:00;10,5;0;2;-9999\n"
    table = read(tmp_path, text.replace(";", separator))
    assert table.frame["t"].tolist() == [-0.97, 10.5]
    assert table.frame["rain"].tolist() == [0.2, 0.0]
    assert table.frame["n"].tolist() == [1, 2]
    assert np.isnan(table.frame["gap"][0])
    assert any("decimal sign is a comma" in note for note in table.notes)


def test_a_decimal_comma_that_comes_late_counts(tmp_path: Path) -> None:
    rows = "".join(f"2020-01-{1 + i // 24:02} {i % 24:02}:00;0;{i}\n" for i in range(600))
    table = read(tmp_path, f"time;rain;t\n{rows}2020-01-26 00:00;0,2;1,5\n")
    assert table.frame["rain"].iloc[-2:].tolist() == [0.0, 0.2]
    assert table.frame["t"].iloc[-1] == 1.5


def test_quoted_decimal_commas_between_commas() -> None:
    path = case("inmet_csv", "comma_sep_quoted_decimal_comma.csv")
    frame = read_text_table(path).frame
    words = pd.read_csv(path, dtype=str)
    for name in frame.columns[2:]:
        expected = [float(word.replace(",", ".")) for word in words[name].fillna("nan")]
        np.testing.assert_array_equal(frame[name], expected)


def test_thousands_are_asked_for(tmp_path: Path) -> None:
    table = read(tmp_path, "time;p\n2020-01-01;1,013\n2020-01-02;1,009\n")
    assert "--decimal ," in table.not_numbers["p"]
    assert not pd.api.types.is_numeric_dtype(table.frame["p"])
    asked = read(tmp_path, "time;p\n2020-01-01;1,013\n2020-01-02;1,009\n", decimal=",")
    assert asked.frame["p"].tolist() == [1.013, 1.009]
    # Another column says that the comma is decimal: then it is here.
    table = read(tmp_path, "time;p;t\n2020-01-01;1,013;0,5\n2020-01-02;1,009;0,25\n")
    assert table.frame["p"].tolist() == [1.013, 1.009]
    table = read(tmp_path, 'time,p,t\n2020-01-01,"1,013.5",1.5\n2020-01-02,999.5,2.5\n')
    assert "thousands without a mark" in table.not_numbers["p"]


def test_points_and_commas_as_decimal_signs_are_refused(tmp_path: Path) -> None:
    # 1.013 may be a thousand here: pandas alone would make it 1.013 without a word.
    with pytest.raises(InputError, match="t holds decimal commas and p decimal points"):
        read(tmp_path, "time;p;t\n2020-01-01;1.013;0,5\n2020-01-02;1.009;0,25\n")
    table = read(tmp_path, "time;p;t\n2020-01-01;1.013;0,5\n2020-01-02;1.009;0,25\n", decimal=",")
    assert "'1.013' (1)" in table.not_numbers["p"]
    assert table.frame["t"].tolist() == [0.5, 0.25]


# Lines above and below the names.


def test_lines_above_the_names_become_metadata(tmp_path: Path) -> None:
    text = "REGIAO:;N\nESTACAO:;EXEMPLO\nLATITUDE:;-3,1\nDATA:;01/01/01\n"
    text += "Data;chuva\n2020/01/01;0,2\n2020/01/02;0\n"
    table = read(tmp_path, text)
    assert table.header_line == 5
    assert table.metadata == {
        "REGIAO": "N", "ESTACAO": "EXEMPLO", "LATITUDE": "-3,1", "DATA": "01/01/01",
    }  # fmt: skip
    assert table.frame["chuva"].tolist() == [0.2, 0.0]
    assert any("line 5" in note and "--header-line" in note for note in table.notes)


@pytest.mark.parametrize("variables", range(1, 9))
def test_a_table_of_places_above_is_never_the_header(tmp_path: Path, variables: int) -> None:
    names = [f"v{i} (mm)" for i in range(variables)]
    rows = [[f"2023-01-01T{h:02}:00", *(f"{h}.{i}" for i in range(variables))] for h in range(5)]
    text = "latitude,longitude,elevation,utc_offset_seconds,timezone,timezone_abbreviation\n"
    text += "-12.05,-77.04,154.0,-18000,America/Lima,GMT-5\n\n"
    text += "\n".join(",".join(row) for row in [["time", *names], *rows]) + "\n"
    table = read(tmp_path, text)
    assert table.header_line == 4
    assert table.frame.columns.tolist() == ["time", *names]
    assert table.frame["v0 (mm)"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert table.metadata["utc_offset_seconds"] == "-18000"
    assert len(table.locations) == 1


def test_several_places_and_their_rows(tmp_path: Path) -> None:
    text = "location_id,latitude,longitude,elevation,utc_offset_seconds,timezone\n"
    text += "0,52.5,13.4,38.0,3600,Europe/Berlin\n1,-12.0,-77.0,154.0,-18000,America/Lima\n\n"
    text += "location_id,time,rain (mm)\n"
    text += "".join(f"{i},2023-01-01T{h:02}:00,{h}.5\n" for i in range(2) for h in range(3))
    table = read(tmp_path, text)
    assert [place["utc_offset_seconds"] for place in table.locations] == ["3600", "-18000"]
    assert table.frame["location_id"].tolist() == ["0"] * 3 + ["1"] * 3
    assert table.frame["rain (mm)"].tolist() == [0.5, 1.5, 2.5] * 2


def test_a_second_table_is_named_and_can_be_asked_for(tmp_path: Path) -> None:
    text = "time,t,rain\n" + "".join(f"2023-01-01T{h:02}:00,{h},0.1\n" for h in range(24))
    text += "\ntime,rain_sum (mm)\n2023-01-01,2.4\n2023-01-02,0.0\n"
    table = read(tmp_path, text)
    assert table.frame["t"].tolist() == list(range(24))
    assert any("second table" in note and "--header-line 27" in note for note in table.notes)
    daily = read(tmp_path, text, header_line=27)
    assert daily.frame.to_dict("list") == {
        "time": ["2023-01-01", "2023-01-02"], "rain_sum (mm)": [2.4, 0.0],
    }  # fmt: skip


def test_comments_above_the_names(tmp_path: Path) -> None:
    text = "# Source: invented\n# station = 7\n# time,t\n2020-01-01,1\n2020-01-02,2\n"
    table = read(tmp_path, text)
    assert table.frame.to_dict("list") == {"time": ["2020-01-01", "2020-01-02"], "t": [1, 2]}
    assert table.metadata == {"Source": "invented", "station": "7"}
    table = read(tmp_path, "# Created: 2020-01-01, 12:00\ntime,t\n2020-01-01,1\n2020-01-02,2\n")
    assert table.header_line == 2


@pytest.mark.parametrize("units", ["degC,mm", "(°C),(mm)", "K,1/10 mm", "[hPa],[%]"])
def test_a_line_of_units_is_taken_off(tmp_path: Path, units: str) -> None:
    table = read(tmp_path, f"time,a,b\nUTC,{units}\n2020-01-01,1.5,2\n2020-01-02,2.5,3\n")
    assert table.frame["a"].tolist() == [1.5, 2.5]
    assert table.frame["b"].dtype == np.int64
    assert [table.units["a"], table.units["b"]] == [u.strip("()[]") for u in units.split(",")]
    assert (table.header_line, table.first_line) == (1, 3)


def test_a_line_without_a_separator_of_excel(tmp_path: Path) -> None:
    table = read(tmp_path, "sep=;\ntime;t\n2020-01-01;1\n2020-01-02;2\n")
    assert table.frame["t"].tolist() == [1, 2]


def test_footers_are_cut_and_named(tmp_path: Path) -> None:
    rows = "".join(f"20200101:{h:02}10,{h}.5,{h}\n" for h in range(20))
    text = f"Latitude (decimal degrees):\t45.0\n\ntime,T2m,WS10m\n{rows}"
    text += "\nT2m: 2-m air temperature\nPVGIS (c)\n"
    table = read(tmp_path, text)
    assert table.header_line == 3
    assert table.frame["T2m"].tolist() == [h + 0.5 for h in range(20)]
    assert any("from line 25" in note for note in table.notes)
    table = read(
        tmp_path, "time,a,b,c\n2020-01-01,1,2,3\n2020-01-02,1,2,3\n2020-01-03,4,5,6\nTotal of 3\n"
    )
    assert table.frame["a"].tolist() == [1, 1, 4]
    assert any("'Total of 3'" in note for note in table.notes)


def test_joined_files_repeat_their_names(tmp_path: Path) -> None:
    one = "time,region,t\n2020-01-01,a,1.5\n2020-01-02,a,2.5\n"
    table = read(tmp_path, one + one.replace(",a,", ",b,"))
    assert table.frame["t"].tolist() == [1.5, 2.5, 1.5, 2.5]
    assert table.frame["region"].tolist() == ["a", "a", "b", "b"]
    assert any("names stand 1 more" in note for note in table.notes)


def test_a_table_without_names(tmp_path: Path) -> None:
    text = "2020-01-01,0,1.5\n2020-01-01,1,2.5\n2020-01-01,2,3.5\n"
    table = read(tmp_path, text)
    assert table.header_line == 0
    assert table.frame.columns.tolist() == ["column_1", "column_2", "column_3"]
    assert table.frame["column_3"].tolist() == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("end", [";", ";;"])
def test_separators_at_the_end_make_no_column(tmp_path: Path, end: str) -> None:
    text = f"time;t{end}\n2020-01-01;1,5{end}\n2020-01-02;2,5{end}\n"
    assert read(tmp_path, text).frame.columns.tolist() == ["time", "t"]
    # In the rows alone: pandas would take the time for an index and shift all columns by one.
    frame = read(tmp_path, "time;t\n2020-01-01;1,5;\n2020-01-02;2,5;\n").frame
    assert frame.to_dict("list") == {"time": ["2020-01-01", "2020-01-02"], "t": [1.5, 2.5]}


def test_empty_rows_at_the_end_are_left_out(tmp_path: Path) -> None:
    table = read(tmp_path, "time,t,u\n2020-01-01,1,2\n2020-01-02,2,2\n,,\n,,\n")
    assert len(table.frame) == 2
    assert any("2 empty rows" in note for note in table.notes)


# Words among numbers.


@pytest.mark.parametrize("word", ["-", "--", "----", "M", "NULL", "n/a", "*", "///", " ", "N/D"])
def test_words_for_missing_leave_a_column_numeric(tmp_path: Path, word: str) -> None:
    table = read(tmp_path, f"time,t\n2020-01-01,1.5\n2020-01-02,{word}\n2020-01-03,-3\n")
    np.testing.assert_array_equal(table.frame["t"], [1.5, np.nan, -3.0])
    assert table.not_numbers == {}


def test_other_words_are_named_with_count_and_line(tmp_path: Path) -> None:
    values = ["0.1", "0.05s", "0.2", "0.05s", "V", "M", "0.3", "0.4"]
    rows = "".join(f"2020-01-0{i + 1},{v}\n" for i, v in enumerate(values))
    table = read(tmp_path, f"# a: b\n\ntime,rain\n{rows.replace('0.2', '0.2' + chr(10))}")
    assert table.not_numbers["rain"] == (
        "column rain: 3 of 8 values are no numbers: '0.05s' (2), 'V' (1), first in line 5."
    )
    assert table.line_of(3) == 8  # behind a blank line
    notes = read_traces(table, ["rain"], suffixes="sV")
    assert "'V' (1), first in line 9" in table.not_numbers["rain"]
    table.frame.loc[4, "rain"] = "T"
    notes = read_traces(table, ["rain"], suffixes="s")
    np.testing.assert_array_equal(table.frame["rain"], [0.1, 0.05, 0.2, 0.05, 0, np.nan, 0.3, 0.4])
    assert table.not_numbers == {}
    assert [note.split(": ")[1][:2] for note in notes] == ["1 ", "2 "]


def test_traces_are_rain_only(tmp_path: Path) -> None:
    table = read(tmp_path, "time,rain,t\n2020-01-01,T,1\n2020-01-02,0.5,T\n2020-01-03,trace,2\n")
    read_traces(table, ["rain"])
    assert table.frame["rain"].tolist() == [0.0, 0.5, 0.0]
    assert "'T' (1), first in line 3" in table.not_numbers["t"]


def test_the_shared_table_in_inches() -> None:
    table = read_text_table(case("inches", "austin_weather.csv"))
    words = pd.read_csv(case("inches", "austin_weather.csv"), dtype=str)
    for name in ("DewPointAvgF", "HumidityAvgPercent", "WindAvgMPH"):
        expected = [np.nan if word == "-" else float(word) for word in words[name]]
        assert np.isnan(expected).sum() == 2
        np.testing.assert_array_equal(table.frame[name], expected)
    read_traces(table, ["PrecipitationSumInches"])
    inches = pd.read_csv(case("inches", "true.csv"))["inch"]
    traces = words["PrecipitationSumInches"] == "T"
    rain = table.frame["PrecipitationSumInches"]
    assert rain[traces].tolist() == [0.0] * 6
    np.testing.assert_allclose(rain[~traces], inches[~traces], atol=1e-12)


def test_text_stays_text(tmp_path: Path) -> None:
    table = read(tmp_path, "time,sky,dir\n2020-01-01,fog,N\n2020-01-02,clear,NNE\n2020-01-03,7,3\n")
    assert table.not_numbers == {}
    assert table.frame["sky"].tolist() == ["fog", "clear", "7"]


# Packed files, and files that are no tables.


def test_packed_tables(tmp_path: Path) -> None:
    text = b"time,t\n2020-01-01,1\n2020-01-02,2\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("inside.csv", text)
    for name in ("a.csv.gz", "b.zip"):
        assert read_text_table(tmp_path / name).frame["t"].tolist() == [1, 2]
    with zipfile.ZipFile(tmp_path / "b.zip", "a") as archive:
        archive.writestr("more.csv", text)
    with pytest.raises(InputError, match=r"holds 2 files \(inside.csv, more.csv\)"):
        read_text_table(tmp_path / "b.zip")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(text)[:20])
    with pytest.raises(InputError, match="can't be unpacked"):
        read_text_table(tmp_path / "c.csv.gz")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no rows"),
        (b"time,t\n", "no rows below"),
        (b"PAR1xxxx", "Parquet"),
        (b"\x89HDF\r\n", "NetCDF"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b'{"hourly": {}}', "JSON"),
        (b"hello\nworld\n", "--separator"),
        (b"time,t\n2020-01-01,0,5\n2020-01-02,0,7\n", "in quotes"),
        (b"a,b,c,d\n2020-01-01,0,5,1,0,1,1\n2020-01-02,0,7,1,0,2,2\n", "in quotes"),
        (
            b"time,t\n2020-01-01,1\n2020-01-02,2\n2020-01-03,2,3,4\n2020-01-04,2\n",
            "line 4 has 4 values",
        ),
        (b'time,t\n2020-01-01,1\n2020-01-02,"2\n2020-01-03,3\n', "never closed"),
        (b"time,t\n\x00\x00\x00\n", "NUL"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_text_table(tmp_path / "t.csv")
    assert "tokenizing" not in str(caught.value)


def test_options_that_can_t_be(tmp_path: Path) -> None:
    text = "time,t\n2020-01-01,1\n2020-01-02,2\n"
    for options, said in (
        ({"separator": "ab"}, "--separator 'ab'"),
        ({"decimal": ";"}, "--decimal is ';'"),
        ({"header_line": 9}, "--header-line 9"),
    ):
        with pytest.raises(InputError, match=said):
            read(tmp_path, text, **options)
    with pytest.raises(InputError, match="is no file"):
        decode_text(tmp_path / "none.csv")


def test_thousands_of_columns_are_read_within_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 3000)).round(2)
    values[5] = np.nan
    rows = values.astype(str)
    rows[5] = "M"  # every column is text for pandas
    times = pd.date_range("2020-01-01", periods=2000, freq="h").astype(str)
    names = ",".join(f"v{i}" for i in range(3000))
    body = "".join(f"{at},{','.join(row)}\n" for at, row in zip(times, rows, strict=True))
    write(tmp_path / "t.csv", f"time,{names}\n{body}")
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_text_table(tmp_path / "t.csv")
    assert time.process_time() - begun < 60
    np.testing.assert_array_equal(table.frame.iloc[:, 1:].to_numpy(), values)
