// What the C++ library that a portable build holds (cmake/portable.cmake) may ask of a C library
// that is newer than the one the build is for.
#include <cstddef>

#define TF_ADADELTA_HIDDEN __attribute__((visibility("hidden")))

extern "C" {

extern void* __dso_handle;
int __cxa_atexit(void (*function)(void*), void* argument, void* library);

// A copy of its own for each library, from a file that shared C libraries do not hold.
TF_ADADELTA_HIDDEN int atexit(void (*function)()) {
  return __cxa_atexit(reinterpret_cast<void (*)(void*)>(function), nullptr, &__dso_handle);
}

// Whether locks may be left out: never, as TensorFlow has threads.
TF_ADADELTA_HIDDEN char __libc_single_threaded = 0;

// Of std::random_device, which nothing here uses.
TF_ADADELTA_HIDDEN int getentropy(void*, size_t) { __builtin_trap(); }
TF_ADADELTA_HIDDEN unsigned int arc4random() { __builtin_trap(); }

}  // extern "C"
