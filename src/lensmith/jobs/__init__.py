"""Jobs: the work of a verb, on any machine (`job`), its uploads (`cargo`), and the remote side (`worker`)."""
