// The worker: a small warm interpreter behind its walls that forks a child for each order.
#pragma once

#include <Python.h>

#include "worker/isolation.h"

namespace stepcoder {

// Serves orders until the judge closes the control socket. run(request, channel) is called in each
// child, with the decoded request and the descriptor of its channel or -1. rehearse() is iterated
// over once before: it makes runs, so that what every run touches is in place, and children need
// not make it each for itself. Throws std::system_error where the worker cannot go on.
// rehearse_small(), a smallest run, is called in a process of its own.
void serve(const IsolationConfig& config, PyObject* run, PyObject* rehearse,
           PyObject* rehearse_small);

}  // namespace stepcoder
