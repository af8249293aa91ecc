"""What Kedro reads of a project; nothing differs from its defaults."""
