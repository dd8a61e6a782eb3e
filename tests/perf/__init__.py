# SPDX-License-Identifier: Apache-2.0
"""A package, so that it is found before a module named perf that the host may have."""
