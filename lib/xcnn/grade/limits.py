"""What one notebook may use."""

from dataclasses import dataclass

CLOCK_FACTOR = 5  # seconds by the clock for each second of processor time: the machine may be busy
MIN_CELL_CLOCK = 60  # seconds
MIN_CLOCK = 120


@dataclass
class Limits:
    """What one notebook may use. Times are seconds of processor time unless they say otherwise."""

    timeout: float = 600  # for the notebook
    cell: float = 300  # for one cell
    memory: float = 4  # gigabytes
    processes: int = 64
    output: float = 20e6  # bytes
    start: float = 300  # by the clock, for the room to open
    own: float = 120  # for the grader's own work on one notebook: read, mend; again for the page
    clock: float | None = None  # by the clock, for the notebook; None: by far more than `timeout`

    @property
    def notebook_clock(self):
        """Seconds by the clock after which the notebook is stopped, whatever it did."""
        return self.clock or max(CLOCK_FACTOR * self.timeout, MIN_CLOCK)

    @property
    def cell_clock(self):
        """Seconds by the clock after which a cell is stopped that only waits."""
        return min(max(CLOCK_FACTOR * self.cell, MIN_CELL_CLOCK), self.notebook_clock / 2)

    @property
    def threads(self):
        """The threads of the notebook, in all its processes."""
        return 8 * self.processes
