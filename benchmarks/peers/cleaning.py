"""cleanvision's whole pass over a folder of images, in two processes; the last line is JSON: seconds.

Run in an environment of its own: pip install cleanvision==0.3.7
"""

import json
import sys
import time

from cleanvision import Imagelab

if __name__ == "__main__":
    clock = time.perf_counter()
    lab = Imagelab(data_path=sys.argv[1])
    lab.find_issues(n_jobs=2, verbose=False)
    print(json.dumps({"seconds": time.perf_counter() - clock}))
