from datafetch_api.printable import single_line


def test_one_line_can_always_be_encoded() -> None:
    assert single_line("a\ud800b\udcffc\n\u202e").encode() == rb"a\ud800b\udcffc\n\u202e"
    assert single_line("ünï côdé 🎉") == "ünï côdé 🎉"
