"""Finding submissions under the names that Canvas, Moodle and a folder of one's own give them."""

import zipfile

from xcnn.grade import submissions


def find_all(path, stem="ps1"):
    """What each student handed in, as text, or what is wrong with it."""
    return {
        (submission.student, submission.number): (
            submission.data.decode() if submission.data else submission.problem
        )
        for submission in submissions.find(path, stem)
    }


def test_canvas_names(tmp_path):
    for name in (
        "doejane_4711_90001_ps1.ipynb",
        "doejane_4711_90007_ps1-1.ipynb",
        "doejane_4711_90009_ps1-2.ipynb",
        "doejane_4712_90002_ps1-3.ipynb",  # another Jane Doe
        "li_LATE_33_90003_ps_1_final.ipynb",
        "leejo_34_90004_essay.pdf",
    ):
        (tmp_path / name).write_text(name)
    assert find_all(tmp_path) == {
        ("doejane", "4711"): "doejane_4711_90009_ps1-2.ipynb",
        ("doejane", "4712"): "doejane_4712_90002_ps1-3.ipynb",
        ("li", "33"): "li_LATE_33_90003_ps_1_final.ipynb",
        ("leejo", "34"): "no .ipynb file, only: leejo_34_90004_essay.pdf",
    }


def test_moodle_folders_and_zip(tmp_path):
    names = (
        "Jana Nováková_101_assignsubmission_file_/ps1.ipynb",
        "Jana Nováková_101_assignsubmission_file_/old/scratch.ipynb",
        "Nguyễn Văn A_102_assignsubmission_file_/x.ipynb",
        "Flat Name_103_assignsubmission_file_ps1.ipynb",
        ".ipynb_checkpoints/ps1.ipynb",
        "__MACOSX/ps1.ipynb",
        "notes.txt",
    )
    for name in names:
        path = tmp_path / "moodle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (tmp_path / "moodle" / "Empty One_104_assignsubmission_file_").mkdir()
    expected = {
        ("Jana Nováková", "101"): "ps1.ipynb",
        ("Nguyễn Văn A", "102"): "x.ipynb",
        ("Flat Name", "103"): "Flat Name_103_assignsubmission_file_ps1.ipynb",
        ("Empty One", "104"): "",
    }
    assert find_all(tmp_path / "moodle") == expected
    for name, root in (("flat.zip", tmp_path / "moodle"), ("inside.zip", tmp_path)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in sorted((tmp_path / "moodle").rglob("*")):
                archive.write(path, path.relative_to(root))
        assert find_all(tmp_path / name) == expected


def test_plain_names(tmp_path):
    (tmp_path / "anna.ipynb").write_text("1")
    for name in ("ben/ps1.ipynb", "ben/zz.ipynb", "cyd/work/any.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.ipynb").symlink_to("/etc/hostname")
    assert find_all(tmp_path) == {
        ("anna", ""): "1",
        ("ben", ""): "ben/ps1.ipynb",
        ("cyd", ""): "cyd/work/any.ipynb",
    }


def test_missing_students(tmp_path):
    (tmp_path / "r.csv").write_text(
        'Student,ID\n"Novák, Jan",1\nJane Doe,2\n"Li, Wei",33\nNobody There,9\n'
    )
    present = [
        submissions.Submission("novakjan"),
        submissions.Submission("doejane"),
        submissions.Submission("x", "33"),
    ]
    absent = submissions.absent(tmp_path / "r.csv", present)
    assert [submission.student for submission in absent] == ["Nobody There"]
