// What the C++ library that a portable build holds (cmake/portable.cmake) may ask of a C library
// that is newer than the one the build is for.
#include <cstddef>

#define TF_ADADELTA_HIDDEN __attribute__((visibility("hidden")))

extern "C" {

extern void* __dso_handle;
int __cxa_atexit(void (*function)(void*), void* argument, void* library);
int __fxstat64(int version, int file, void* status);

// A copy of its own for each library, from a file that shared C libraries do not hold.
TF_ADADELTA_HIDDEN int atexit(void (*function)()) {
  return __cxa_atexit(reinterpret_cast<void (*)(void*)>(function), nullptr, &__dso_handle);
}

// Whether locks may be left out: never, as TensorFlow has threads.
TF_ADADELTA_HIDDEN char __libc_single_threaded = 0;

// Of std::random_device, which nothing here uses.
TF_ADADELTA_HIDDEN int getentropy(void*, size_t) { __builtin_trap(); }
TF_ADADELTA_HIDDEN unsigned int arc4random() { __builtin_trap(); }

// Of std::filebuf, which comes with <iostream>, and that with CUB. Before 2.33 the C library had it
// only under another name; 1 is the version of the struct on x86-64.
TF_ADADELTA_HIDDEN int fstat64(int file, void* status) { return __fxstat64(1, file, status); }

}  // extern "C"
