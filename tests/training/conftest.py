"""One server for the tests that need processes of their own: it imports everything once and forks when asked."""

import multiprocessing

multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["tests.training.two_processes", "tests.training.killed"]
)
