"""Work for test_kills.py in place of a victim's: six steps, each written at once.

python -m little [forgets]      # forgets: a run that is continued ends otherwise than one that nobody disturbed
"""

import json
import os
import sys
import time
from pathlib import Path

result, part = Path("out.json"), Path("part.json")
done = json.loads(result.read_text()) if result.exists() else []
if "forgets" in sys.argv and done:
    done[-1] = "?"
for step in range(len(done), 6):
    time.sleep(0.05)
    part.write_text(json.dumps([*done, step]))
    done.append(step)
    os.replace(part, result)
