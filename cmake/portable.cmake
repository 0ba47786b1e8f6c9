# Links for a C library older than that of this machine, for wheels: TF_ADADELTA_GLIBC_STUBS names a
# folder with libc.so, libm.so, libdl.so, libpthread.so, librt.so and libld.so that define the symbols
# of the old one (ci/build_wheel.py makes it). The C++ library goes into each library, out of sight:
# that of the old system may lack what the compiler's own asks for. A symbol that neither has fails
# the link.
set(TF_ADADELTA_GLIBC_STUBS "" CACHE PATH "The symbols of the C library to link for")
if(TF_ADADELTA_GLIBC_STUBS)
  add_library(old_glibc OBJECT csrc/old_glibc.cc)
  link_libraries(old_glibc)
  add_link_options(-nodefaultlibs -L${TF_ADADELTA_GLIBC_STUBS}
                   -Wl,--exclude-libs,libstdc++.a:libgcc.a)
  set(CMAKE_CXX_STANDARD_LIBRARIES
      "-l:libstdc++.a -lgcc_s -lgcc -lm -lpthread -ldl -lrt -lc -lld")
  set(CMAKE_CUDA_STANDARD_LIBRARIES "${CMAKE_CXX_STANDARD_LIBRARIES}")
endif()
