"""A git repository in Python: its files are read as files, and a data set of it has a manifest like any other."""

import json
from pathlib import Path

import datafetch
from datafetch.ingest import Ingester
from servers.git import GitServer

FILES = {"food/indian.csv": b"name,diet\n", "food/notes/readme.txt": b"about food", "food/notes/more.csv": b"more"}


def test_a_git_repository_is_a_source_of_files_and_a_data_set(tmp_path: Path) -> None:
    with GitServer(tmp_path) as server:
        manifest = json.dumps({"files": ["indian.csv", "notes/readme.txt"]}).encode()
        repository = server.create("group/data", {**FILES, "food/manifest": manifest})
        uri = f"git+{repository.url}#food/"
        with datafetch.source(uri) as source, source.open("notes/readme.txt") as file:
            assert (file.seek(6), file.read()) == (6, b"food")
        made = Ingester(uri, file_pattern="*.csv", dataset_id="food", destination_directory=tmp_path / "sets")

        assert made.fetch_data() == [tmp_path / "sets/food/indian.csv"]
