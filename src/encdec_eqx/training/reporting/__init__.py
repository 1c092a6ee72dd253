"""What a run tells while it goes: log, bar, curve, speed."""
