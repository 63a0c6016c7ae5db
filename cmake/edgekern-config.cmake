# find_package(edgekern): the target edgekern::edgekern, the library and its header edgekern/edgekern.h.
include("${CMAKE_CURRENT_LIST_DIR}/edgekern-targets.cmake")
