// Marks what the core library offers to the doors; everything else of it stays inside.
#ifndef TF_ADADELTA_API_H_
#define TF_ADADELTA_API_H_

#define TF_ADADELTA_API __attribute__((visibility("default")))

#endif  // TF_ADADELTA_API_H_
