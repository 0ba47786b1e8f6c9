// Where the inputs of an op stand, by its attributes.
#ifndef TF_ADADELTA_TENSORFLOW_LAYOUTS_H_
#define TF_ADADELTA_TENSORFLOW_LAYOUTS_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/errors.h"
#include "tensorflow/inputs.h"

namespace tf_adadelta {

// Checks that a list that may be missing is so, or has an element for each variable.
inline absl::Status CheckLength(const char* list, int length, int num_variables) {
  if (length == 0 || length == num_variables) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(list, " has length ", length,
                                                 ", expected none or ", num_variables,
                                                 ", one for each variable"));
}

// Checks what is rounded at random; returns whether anything is, and whether that is in blocks.
template <typename Context>
absl::Status GetRandom(Context* context, bool* random, bool* blocks) {
  int length;
  tensorflow::DataType dtype, state;
  TF_RETURN_IF_ERROR(context->GetAttr("num_random", &length));
  TF_RETURN_IF_ERROR(context->GetAttr("T", &dtype));
  TF_RETURN_IF_ERROR(context->GetAttr("state", &state));
  *random = length > 0;
  *blocks = state == tensorflow::DT_UINT8;
  if (*blocks && (!*random || dtype != tensorflow::DT_FLOAT)) {
    return absl::InvalidArgumentError(absl::StrCat("state is uint8 for variables of dtype ",
                                                   tensorflow::DataTypeString(dtype),
                                                   ", expected float, and random_seeds"));
  }
  const bool has_random = dtype == tensorflow::DT_BFLOAT16 || dtype == tensorflow::DT_FLOAT;
  if (!*random || (length == 2 && has_random)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "random has length ", length, " for variables of dtype ", tensorflow::DataTypeString(dtype),
      ", expected none, or step and random_seeds for bfloat16 and float"));
}

// The dtype of the elements of a list of resources, of which the variables have `dtype`.
inline tensorflow::DataType ResourceType(const Inputs& inputs, Inputs::List list,
                                         tensorflow::DataType dtype) {
  if (list == Inputs::kClocks) return tensorflow::DT_INT64;
  if (!Inputs::IsState(list) || !inputs.has(Inputs::kRandomSeeds)) return dtype;
  return inputs.has_blocks() ? tensorflow::DT_UINT8 : tensorflow::DT_BFLOAT16;
}

// What an error message says of where that dtype comes from.
inline const char* WhyResourceType(const Inputs& inputs, Inputs::List list,
                                   tensorflow::DataType dtype) {
  if (list == Inputs::kClocks) return "";
  return ResourceType(inputs, list, dtype) == dtype ? ", the dtype of the gradients"
                                                    : ", where there are random_seeds";
}

// `context` is anything that has attributes: of an op's shape function or of the making of a
// kernel.
template <typename Context>
absl::Status GetDenseLayout(Context* context, std::optional<Inputs>* inputs) {
  int n, num_averages, num_grad_accums, num_options;
  TF_RETURN_IF_ERROR(context->GetAttr("N", &n));
  TF_RETURN_IF_ERROR(context->GetAttr("num_averages", &num_averages));
  TF_RETURN_IF_ERROR(context->GetAttr("num_grad_accums", &num_grad_accums));
  TF_RETURN_IF_ERROR(context->GetAttr("num_options", &num_options));
  TF_RETURN_IF_ERROR(CheckLength("averages", num_averages, n));
  TF_RETURN_IF_ERROR(CheckLength("grad_accums", num_grad_accums, n));
  bool random, blocks;
  TF_RETURN_IF_ERROR(GetRandom(context, &random, &blocks));
  const bool options = num_options > 0;
  *inputs = Inputs::Dense(n, {num_averages > 0, num_grad_accums > 0, options, random});
  (*inputs)->set_has_blocks(blocks);
  const int expected = (*inputs)->at(Inputs::kStep) - (*inputs)->at(Inputs::kGradScale);
  if (num_options != expected || (!options && num_averages + num_grad_accums > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("options has length ", num_options,
                     ", expected 6, or none where there are neither averages nor grad_accums"));
  }
  return absl::OkStatus();
}

template <typename Context>
absl::Status GetSparseLayout(Context* context, std::optional<Inputs>* inputs) {
  int n, num_clocks;
  TF_RETURN_IF_ERROR(context->GetAttr("N", &n));
  TF_RETURN_IF_ERROR(context->GetAttr("num_clocks", &num_clocks));
  TF_RETURN_IF_ERROR(CheckLength("clocks", num_clocks, n));
  bool random, blocks;
  TF_RETURN_IF_ERROR(GetRandom(context, &random, &blocks));
  *inputs = Inputs::Sparse(n, num_clocks > 0, random);
  (*inputs)->set_has_blocks(blocks);
  return absl::OkStatus();
}

template <typename Context>
absl::Status GetNormsLayout(Context* context, std::optional<Inputs>* inputs) {
  int n, num_grad_accums;
  TF_RETURN_IF_ERROR(context->GetAttr("N", &n));
  TF_RETURN_IF_ERROR(context->GetAttr("num_grad_accums", &num_grad_accums));
  TF_RETURN_IF_ERROR(CheckLength("grad_accums", num_grad_accums, n));
  *inputs = Inputs::Norms(n, num_grad_accums > 0);
  return absl::OkStatus();
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_LAYOUTS_H_
