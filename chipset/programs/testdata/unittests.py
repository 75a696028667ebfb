# Runs tests of Python's own suite, in their order, without those that need the network,
# much time or much memory. Usage: unittests.py SKIPPED,… MODULE…
import sys
import unittest
from test import support

support.use_resources = []
support.verbose = False
skipped = sys.argv[1].split(",")


def tests(suite):
    for t in suite:
        if isinstance(t, unittest.TestSuite):
            yield from tests(t)
        elif not any(s and s in t.id() for s in skipped):
            yield t


suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[2:])
ran = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.TestSuite(tests(suite)))
sys.exit(not ran.wasSuccessful())
