// The worker: a small warm interpreter in isolation that forks a child for each run.
#pragma once

#include <Python.h>

#include "worker/isolation.h"

namespace stepcoder {

// Serves runs until the judge closes the control socket. Throws std::system_error if the worker
// cannot go on.
//
// run(request, channel) is called in each child, with the decoded request and the descriptor of its
// channel or -1. rehearse() is iterated over once before: it makes warm-up runs, which fill the
// caches that children share. rehearse_small() makes the smallest run, in a process of its own.
void serve(const IsolationConfig& config, PyObject* run, PyObject* rehearse,
           PyObject* rehearse_small);

}  // namespace stepcoder
