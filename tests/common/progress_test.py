from common import progress


class Clock:
  now = 100.0

  def __call__(self) -> float:
    return self.now


def test_rate_leaves_compilation_and_pauses_out():
  clock = Clock()
  chrono = progress.Chrono(
    num_steps=30, batch_size=4, seconds_before=7.0, clock=clock
  )
  clock.now += 50.0  # Compilation.
  assert chrono.measure(10) == {}
  clock.now += 5.0
  with chrono.paused():
    clock.now += 1000.0
  assert chrono.measure(20) == {
    'steps_per_second': 2.0,
    'examples_per_second': 8.0,
    'eta_seconds': 5.0,
  }
  assert chrono.seconds == 7.0 + 50.0 + 5.0 + 1000.0


def test_formatting():
  assert progress.format_seconds(3.4) == '3s'
  assert progress.format_seconds(123) == '2m03s'
  assert progress.format_seconds(3723) == '1h02m03s'
