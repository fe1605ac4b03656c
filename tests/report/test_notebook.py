import io

from IPython import display
import matplotlib.figure
import matplotlib.image
import matplotlib.patches
import pytest

from progrpo_jax import errors
from progrpo_jax.report import comparison, curves, notebook, tables
from progrpo_jax.storage import metrics


class Shown:
  """What a cell shows: bundles, each with all that stood there in turn."""

  def __init__(self):
    self.places = []

  def display(self, bundle, *, raw, display_id):
    assert raw and display_id
    place = [bundle]
    self.places.append(place)

    class Handle:
      def update(self, bundle, *, raw):
        assert raw
        place.append(bundle)

    return Handle()

  def texts(self):
    return [b["text/plain"] for b in self.places[0]]

  def pictures(self):
    return [b["image/png"] for place in self.places[1:] for b in place]


@pytest.fixture
def shown(monkeypatch):
  found = Shown()
  monkeypatch.setattr(display, "display", found.display)
  return found


def pixels(png):
  return matplotlib.image.imread(io.BytesIO(png))


def square(color, size):
  figure = matplotlib.figure.Figure(figsize=(size, size))
  figure.add_artist(
    matplotlib.patches.Rectangle(
      (0, 0), 1, 1, color=color, transform=figure.transFigure
    )
  )
  return figure


def test_figures_stand_side_by_side_on_white():
  made = pixels(notebook.png(square("red", 2), None, square("blue", 1), dpi=50))
  assert made.shape[:2] == (100, 162)  # 12 dots between them
  rgb = (made[..., :3] * 255).astype(int)
  assert rgb[50, 50].tolist() == [255, 0, 0]
  assert rgb[25, 137].tolist() == [0, 0, 255]
  assert rgb[25, 106].tolist() == [255, 255, 255]
  assert rgb[80, 137].tolist() == [255, 255, 255]  # below the smaller one


def test_nothing_to_show_is_said():
  with pytest.raises(errors.InputError, match="nothing of what is to be shown"):
    notebook.png(None, None)


def test_a_transparent_figure_is_drawn_on_white(make_run):
  groups = {"run": [metrics.load(make_run())]}
  made = pixels(notebook.png(curves.entropy(groups)))
  assert made[0, 0, :3].tolist() == [1, 1, 1]
  assert (made[..., :3].min(axis=-1) < 0.5).any()


def test_a_table_of_a_comparison(make_run):
  groups = {
    name: [metrics.load(make_run(name, shift=shift))]
    for name, shift in (("a", 0), ("b", 1))
  }
  summary = comparison.analyse(groups)
  for made in tables.of(summary):
    table = notebook.table(made)
    assert table.names == made.columns and len(table) == len(made.rows)
    for row, cells in enumerate(made.rows):
      for name, (text, small) in zip(made.columns, cells):
        assert table[name][row].startswith(text)
        assert small in table[name][row]


def test_a_view_draws_what_is_there(make_run, shown, tmp_path):
  workdirs = {"old": make_run("old", steps=20), "new": tmp_path / "new"}
  with notebook.NotebookView(workdirs, 20, every_s=0) as view:
    assert shown.texts() == ["starting"] and len(shown.places) == 1
    view.phase("sample")
    assert shown.texts()[-1] == "starting"
    view.phase("compiling sample")
    assert shown.texts()[-1] == "compiling sample …"
    view.eval(0, {"eval/countdown/pass@1": 0.1})
    view.message("attention: xla")
    assert shown.texts()[-1] == "compiling sample …\n• attention: xla"
    view.step(1, {"step": 1, "reward": 0.25, "entropy": None})
    assert shown.texts()[-1] == "step 1/20  reward 0.250\n• attention: xla"
    (alone,) = shown.pictures()
    make_run("new", steps=4, shift=1)
    view.step(2, {"step": 2})
  both = shown.pictures()
  assert len(shown.places) == 2  # one text and one picture, updated in place
  assert len(both) == 3 and both[-1] == both[-2] != alone
  assert shown.texts()[-1].startswith("step 2/20")


def test_a_view_waits_between_pictures_and_shows_the_end(make_run, shown):
  workdirs = {"run": make_run(steps=20)}
  with notebook.NotebookView(workdirs, 20, every_s=1000) as view:
    for step in range(1, 5):
      view.step(step, {"step": step})
    assert len(shown.pictures()) == 1
  assert len(shown.pictures()) == 2


def test_a_run_that_is_done_is_shown_and_one_that_fails_is_not(make_run, shown):
  workdirs = {"run": make_run(steps=20)}
  with notebook.NotebookView(workdirs, 20) as view:
    view.message("resuming from step 20")
  assert shown.texts()[-1] == "nothing left to do\n• resuming from step 20"
  assert len(shown.pictures()) == 1
  with pytest.raises(ValueError, match="mine"):
    with notebook.NotebookView(workdirs, 20):
      raise ValueError("mine")
  assert len(shown.places) == 3


def test_a_view_of_nothing_shows_no_picture(tmp_path, shown):
  with notebook.NotebookView({"run": tmp_path / "none"}, 20, every_s=0) as view:
    view.step(1, {"step": 1})
  assert shown.pictures() == []


def test_progress_in_a_notebook_is_one_line(shown):
  with notebook.progress("evaluation", 3) as tick:
    tick()
    tick(2, "pass@1 0.5")
  assert shown.texts()[0] == "evaluation 0/3"
  assert shown.texts()[-1] == "evaluation 3/3 pass@1 0.5"
  assert len(shown.places) == 1
