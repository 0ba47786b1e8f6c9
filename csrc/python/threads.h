// The threads of the calls on NumPy arrays. They are kept from call to call: to start one takes as
// long as to update 100,000 elements.
#ifndef TF_ADADELTA_PYTHON_THREADS_H_
#define TF_ADADELTA_PYTHON_THREADS_H_

#include "cpu/parallel.h"

namespace tf_adadelta {

// Workers of a call that may use `num_threads` threads, its own included. Calls at once share
// threads, of which there are as many as any call has asked for, or as many as are to be had.
Workers SharedWorkers(int num_threads);

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_PYTHON_THREADS_H_
