"""Who talks to people and programs."""
