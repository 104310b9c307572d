"""Jobs: the work of a verb, on any machine (`job`), its uploads (`uploads`), and the remote side (`worker`)."""
