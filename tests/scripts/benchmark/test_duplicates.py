import json

from scripts.benchmark.duplicates import CHANGES, main


def test_what_is_found_of_each_change(synthetic, tmp_path):
    folder, out = str(synthetic / "cifar10"), tmp_path / "found.json"
    main(["--photos", folder, "--cifar10", folder, "--count", "8", "--images", "12", "--out", str(out)])
    written = json.loads(out.read_text())
    found = written["copies"]["found"]
    assert set(found) == set(CHANGES) and found["0.7 times as bright"] == 1 and found["mirrored"] < 1
    assert written["cifar10"]["images"] == 12 and written["copies"]["most_alike"] < 0.97
