# The loops of development. Each calls what tests/run calls: there is no second way to test.

# Lists the recipes.
_default:
    @just --list --unsorted

# Formats, lints, and holds the floors of ARCHITECTURE.md; no root.
check:
    tests/check

# Runs the tests beside the code; no root.
unit *filter:
    tests/unit {{filter}}

# Runs all tests, or those with a part of this in their names; as root.
test *filter:
    sudo tests/run {{filter}}

# Prints ratios against references in the same run; as root.
bench:
    sudo tests/bench/run
