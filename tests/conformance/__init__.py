"""What every adapter promises: one suite for sources, one for sinks, each bound to every registry by its lab."""
