"""Label maps in, scores and their intervals out; pure functions that know no files."""
