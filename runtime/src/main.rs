//! chaski
fn main(){}
