// Stands in for HighwayHash's header, which TensorFlow's pip package lacks: see ../README.md.
#ifndef TF_ADADELTA_TENSORFLOW_MISSING_HEADERS_HIGHWAYHASH_HIGHWAYHASH_H_
#define TF_ADADELTA_TENSORFLOW_MISSING_HEADERS_HIGHWAYHASH_HIGHWAYHASH_H_

#define HH_TARGET_PREFERRED 0

namespace highwayhash {

// A member of xla::HighwayHashPrinter, which is never made here.
template <int target>
class HighwayHashCatT {};

}  // namespace highwayhash

#endif  // TF_ADADELTA_TENSORFLOW_MISSING_HEADERS_HIGHWAYHASH_HIGHWAYHASH_H_
