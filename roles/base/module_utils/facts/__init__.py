"""In place of Ansible's, whose imports would send the code of every fact with each of them."""
